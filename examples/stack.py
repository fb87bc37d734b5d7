"""Both services on loopback ports, over TLS and with a token, for the example clients."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from demo.service_process import ServiceProcess, free_port
from grpc_kit.health import is_serving
from tests.unit.grpc_kit.certificates import Authority


@dataclass(frozen=True)
class Stack:
    """What clients need to know of the services."""

    embedder: str
    search: str
    cut_off: str
    """A search service whose embedder does not answer."""
    authority: Path
    stranger: Path
    """An authority that issued none of the certificates."""
    token: str
    log_of_cut_off: Path

    def attempts_at_cut_off(self) -> int:
        """Return how many calls that search service has refused so far."""
        return self.log_of_cut_off.read_text().count("reason=EMBEDDER_UNAVAILABLE")


class SecureProcess(ServiceProcess):
    """A service with TLS."""

    def __init__(self, module: str, environment: dict[str, str], log: Path, authority: Path) -> None:
        """Prepare a service on a free port; `environment` has what it is told beside its address."""
        address = f"localhost:{free_port()}"
        prefix = module.removesuffix("_service").upper()
        super().__init__(module, address, {f"{prefix}_LISTEN_ADDRESS": address, **environment}, log)
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
    """Run the services, their data and logs in `folder`. Raises StartError."""
    authority, token = Authority(folder, "authority"), secrets.token_urlsafe(24)
    pair = authority.issue("server")

    def service(module: str, log: str, **environment: str) -> SecureProcess:
        prefix = module.removesuffix("_service").upper()
        settings = {"TLS_CERTIFICATE": str(pair.certificate), "TLS_KEY": str(pair.key), "TOKENS": token, **environment}
        named = {f"{prefix}_{name}": value for name, value in settings.items()}
        return SecureProcess(module, named, folder / log, authority.file)

    def search_service(name: str, embedder: str) -> SecureProcess:
        embedding = {"EMBEDDER_TARGET": embedder, "EMBEDDER_CA": str(authority.file), "EMBEDDER_TOKEN": token}
        return service("search_service", f"{name}.log", MILVUS_URI=str(folder / f"{name}.db"), **embedding)

    embedder = service("embedder_service", "embedder.log", MAX_BATCH_SIZE="2")
    search = search_service("search", embedder.address)
    cut_off = search_service("cut_off", f"127.0.0.1:{free_port()}")
    with ExitStack() as stack:
        for process in (embedder, search, cut_off):
            stack.callback(process.stop)
            process.start()
        for process in (cut_off, search, embedder):
            process.wait_until_healthy()
        yield Stack(
            embedder=embedder.address,
            search=search.address,
            cut_off=cut_off.address,
            authority=authority.file,
            stranger=Authority(folder, "stranger").file,
            token=token,
            log_of_cut_off=folder / "cut_off.log",
        )
