"""A gRPC server with health, reflection, error mapping, a log line a call, and a clean stop."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from grpc_kit.interceptors.access_log import AccessLog
from grpc_kit.interceptors.draining import Draining
from grpc_kit.interceptors.errors import ErrorMapping
from grpc_kit.settings import ServerSettings

log = structlog.stdlib.get_logger()


@dataclass(frozen=True)
class Service:
    """A service to serve: its descriptor, and the call that adds its servicer to a server."""

    descriptor: ServiceDescriptor
    add_to: Callable[[grpc.aio.Server], None]


class Server:
    """Serves some services on one address."""

    def __init__(self, services: Sequence[Service], settings: ServerSettings, domain: str) -> None:
        """Makes the server; `start` opens it. `domain` is written into every ErrorInfo."""
        self._settings = settings
        self._names = [service.descriptor.full_name for service in services]
        self._health = health.aio.HealthServicer()
        self._draining = Draining()
        self._server = grpc.aio.server(
            # The first is the outermost.
            interceptors=[AccessLog(), ErrorMapping(domain), self._draining],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                # Clients may ask every 10 s whether the connection lives; gRPC's default would hang up on them.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                # Otherwise two servers could share a port, and each get some of the calls, in silence.
                ("grpc.so_reuseport", 0),
            ],
        )
        for service in services:
            service.add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)

    async def start(self, *, serving: bool = True) -> str:
        """Opens the port and reports its health; gives the address, HOST:PORT. Raises OSError where it is taken."""
        host = self._settings.listen_address.rpartition(":")[0]
        try:
            port = self._server.add_insecure_port(self._settings.listen_address)
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {self._settings.listen_address}: is it in use? *_LISTEN_ADDRESS names another"
            ) from error
        await self._server.start()
        await self.set_serving(serving=serving)
        address = f"{host}:{port}"
        log.info("serving", address=address, services=self._names)
        return address

    async def set_serving(self, *, serving: bool) -> None:
        """Reports the health of every service, and of the server as a whole (the empty name)."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self) -> None:
        """Reports NOT_SERVING, takes no new calls and no further items, and gives those under way their time to end."""
        await self._health.enter_graceful_shutdown()
        self._draining.begin()
        await self._server.stop(self._settings.drain_seconds)
        log.info("stopped")


def stop_signals() -> asyncio.Event:
    """An event that is set when the process is asked to stop, by SIGTERM or Ctrl-C. To be made before it serves."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    return asked
