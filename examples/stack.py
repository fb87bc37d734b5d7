"""Both services on loopback ports, over TLS and with a token, for the example clients."""

import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from demo.service_process import ServiceProcess, free_port
from grpc_kit.health import is_serving
from tests.harness.certificates import Authority

CHUNK = 65536


class Link:
    """Forwards TCP connections to a port of this machine until it is cut."""

    def __init__(self, port: int) -> None:
        """Listen on a free port."""
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.address = f"localhost:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections and accept no more."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # cut
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                try:
                    far = socket.create_connection(("127.0.0.1", self._port))
                except ConnectionRefusedError:
                    near.close()
                    continue
                self._sockets.append(far)
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Stack:
    """The addresses and credentials of the services, for clients."""

    embedder: str
    search: str
    authority: Path
    stranger: Path
    """An authority that issued none of the certificates."""
    token: str
    link: Link
    """The connection from the search service to the embedder."""
    log: Path
    """The log of the search service."""

    def refused_searches(self) -> int:
        """Return how many searches have failed so far because the embedder did not answer."""
        refused = "code=UNAVAILABLE method=/imagesearch.search.v1.SearchService/Search "
        return self.log.read_text().count(refused)


class SecureProcess(ServiceProcess):
    """A service on a free port, with TLS."""

    def __init__(self, name: str, folder: Path, authority: Path, **settings: str) -> None:
        """Start nothing yet. `settings` are the service's, without their prefix; `name` is embedder or search."""
        settings["LISTEN_ADDRESS"] = f"localhost:{free_port()}"
        environment = {f"{name.upper()}_{key}": value for key, value in settings.items()}
        super().__init__(f"{name}_service", settings["LISTEN_ADDRESS"], environment, folder / f"{name}.log")
        self._authority = authority

    def is_healthy(self) -> bool:
        """Return whether the service reports that it serves. Raises StartError if it has ended."""
        self.check()
        credentials = grpc.ssl_channel_credentials(self._authority.read_bytes())
        with grpc.secure_channel(self.address, credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:
            try:
                return is_serving(channel, timeout=2)
            except grpc.RpcError:
                return False


@contextmanager
def running_stack(folder: Path) -> Iterator[Stack]:
    """Run both services, their data and logs in `folder`. Raises StartError."""
    authority, token = Authority(folder, "authority"), secrets.token_urlsafe(24)
    pair = authority.issue("server")
    secured = {"TLS_CERTIFICATE": str(pair.certificate), "TLS_KEY": str(pair.key), "TOKENS": token}
    embedder = SecureProcess("embedder", folder, authority.file, MAX_BATCH_SIZE="2", **secured)
    link = Link(int(embedder.address.rpartition(":")[2]))
    embedding = {"EMBEDDER_TARGET": link.address, "EMBEDDER_CA": str(authority.file), "EMBEDDER_TOKEN": token}
    search = SecureProcess(
        "search", folder, authority.file, MILVUS_URI=str(folder / "milvus.db"), **secured, **embedding
    )
    with ExitStack() as stack:
        for process in (embedder, search):
            stack.callback(process.stop)
            process.start()
        for process in (search, embedder):
            process.wait_until_healthy()
        yield Stack(
            embedder=embedder.address,
            search=search.address,
            authority=authority.file,
            stranger=Authority(folder, "stranger").file,
            token=token,
            link=link,
            log=folder / "search.log",
        )
