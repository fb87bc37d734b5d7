"""A local web server with scripted answers that records its requests exactly."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fsspec.implementations.http import HTTPFileSystem


@dataclass(frozen=True)
class Answer:
    """An answer of the server."""

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None
    """The Content-Length, if it differs from the actual length."""
    knows_ranges: bool = True
    breaks: bool = False
    """Whether the connection ends without an answer."""


class Scripted:
    """The server's address, its answers and its requests."""

    def __init__(self) -> None:
        self.address = ""
        self.targets: list[str] = []
        """The targets of the request lines."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """The method, target and headers of each request."""
        self.answers: dict[str, Answer | list[Answer] | Callable[[], Answer]] = {}
        """By target. Each answer of a list is sent once, and the last one from then on."""
        self.others: list[Answer] = [Answer(status=404)]
        """The answers for all other targets."""
        self.lock = threading.Lock()

    def answer(self, target: str) -> Answer:
        with self.lock:
            found = self.answers.get(target, self.others)
            if isinstance(found, list):
                return found.pop(0) if len(found) > 1 else found[0]
        return found if isinstance(found, Answer) else found()


class _Handler(BaseHTTPRequestHandler):
    scripted: Scripted
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        target = self.requestline.split(" ")[1]
        with self.scripted.lock:
            self.scripted.targets.append(target)
            self.scripted.requests.append((self.command, target, {k.lower(): v for k, v in self.headers.items()}))
        answer = self.scripted.answer(target)
        if answer.breaks:
            self.close_connection = True
            return
        status, content, headers = answer.status, answer.content, dict(answer.headers)
        wanted = self.headers.get("Range", "")
        if wanted and answer.knows_ranges and status == 200:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        announced = len(content)
        if answer.announced is not None and status == 200:
            announced = answer.announced
        # Otherwise the server adds its own date.
        (self.send_response_only if "Date" in headers else self.send_response)(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(announced))
        # A client may repeat a request by itself if a kept connection was closed.
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            if announced != len(content):
                # Let the client read everything before the connection ends.
                self.wfile.flush()
                time.sleep(0.3)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the server's
        pass


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[Scripted]:
    scripted = Scripted()

    class Server(ThreadingHTTPServer):
        address_family = 10 if ":" in host else 2
        request_queue_size = 1024
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Server((host, 0), type("Handler", (_Handler,), {"scripted": scripted})) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        scripted.address = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"
        try:
            yield scripted
        finally:
            HTTPFileSystem.clear_instance_cache()
            server.shutdown()
            thread.join()
