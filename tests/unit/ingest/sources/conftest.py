"""Local servers with files: HTTP, S3 and Google Cloud Storage; and a file system in memory."""

import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import fsspec
import pytest
import requests
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

# In the order of an object store.
KEYS = ["a/b/c.webp", "a/z.PNG", "b.jpg", "empty.jpg", "猫 ü+&.jpg"]
CONTENT = {key: b"" if key == "empty.jpg" else key.encode() * 3 for key in KEYS}


def archive(members: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


class Handler(SimpleHTTPRequestHandler):
    requests: list[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.requests.append(f"GET {self.path} {self.headers.get('Range', '')}")
        if self.path.startswith("/fail/"):
            self.send_error(500)
        elif self.path.startswith("/busy/"):
            self.send_response(503)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path.startswith("/secret/"):
            self.send_error(403)
        elif self.path.startswith("/short/"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x")
            self.close_connection = True
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        self.requests.append(f"HEAD {self.path}")
        super().do_HEAD()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the server's
        pass


@pytest.fixture
def seen() -> list[str]:
    """The requests to the web server."""
    return []


@pytest.fixture
def web(tmp_path: Path, seen: list[str]) -> Iterator[str]:
    root = tmp_path / "web"
    for key, content in CONTENT.items():
        path = root / "photos" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    handler = type("Recording", (Handler,), {"requests": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        HTTPFileSystem.clear_instance_cache()
        server.shutdown()
        thread.join()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    client.close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    fsspec.get_filesystem_class("gs").clear_instance_cache()

    system = fsspec.filesystem("gs")

    def put(key: str, content: bytes) -> None:
        system.pipe_file(f"bucket/{key}", content)

    yield put
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    server.stop()


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
