"""A gRPC server with health, reflection, TLS, tokens, error statuses, logs, metrics, and a clean stop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry, Gauge

from grpc_kit.health import LIVENESS
from grpc_kit.server.interceptors.call_admission import CallAdmission
from grpc_kit.server.interceptors.call_observer import CallMetrics, CallObserver
from grpc_kit.server.interceptors.draining import CallsInFlight, StreamDraining
from grpc_kit.server.interceptors.error_mapping import ErrorMapping
from grpc_kit.server.interceptors.request_receiver import RequestReceiver
from grpc_kit.server.interceptors.tokens import Tokens
from grpc_kit.server.message_budget import MessageBudget
from grpc_kit.server.reflection import serve_reflection
from grpc_kit.server.settings import ServerSettings

log = structlog.stdlib.get_logger()

KEEPALIVE_TIMEOUT_SECONDS = 10
# Seconds in which callers that watch the health learn of the stop, and in which their last calls arrive.
HEALTH_SECONDS = 0.5
# Seconds that the server waits for streams to end before it refuses new calls.
STREAMS_SECONDS = 2.0
# Seconds in which gRPC may send the last answers.
FLUSH_SECONDS = 2.0


@dataclass(frozen=True)
class Service:
    """A service: its descriptor, and the function that adds its servicer to a server."""

    descriptor: ServiceDescriptor
    add_to: Callable[[grpc.aio.Server], None]


class WatchedHealth(health.aio.HealthServicer):
    """A health servicer that counts its watchers."""

    def __init__(self) -> None:
        """Start without watchers."""
        super().__init__()
        self.watchers = 0

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Send the current health and every change of it."""
        self.watchers += 1
        try:
            await super().Watch(request, context)
        finally:
            self.watchers -= 1


class Server:
    """Serves services on one address."""

    def __init__(
        self,
        services: Sequence[Service],
        settings: ServerSettings,
        domain: str,
        registry: CollectorRegistry,
        budget: MessageBudget | None = None,
    ) -> None:
        """Create the server; `start` opens its port.

        Args:
            services: the services.
            settings: addresses, TLS, limits and times.
            domain: the domain of every ErrorInfo.
            registry: registry for the metrics of the calls.
            budget: budget for the messages of unary calls; other parts of the service may share it. None creates one
                from the settings.
        """
        self._settings = settings
        self._names = [service.descriptor.full_name for service in services]
        self._health = WatchedHealth()
        self._serving = Gauge(
            "grpc_server_serving", "1 while the server as a whole reports SERVING, else 0.", registry=registry
        )
        self._is_draining = Gauge(
            "grpc_server_draining",
            "1 from SIGTERM until the last call has ended, else 0.",
            registry=registry,
        )
        self._is_dead = False
        self._calls = CallsInFlight()
        self._draining = StreamDraining(self._calls.note_progress)
        tokens = settings.token_list
        self._server = grpc.aio.server(
            # The first interceptor is the outermost.
            interceptors=[
                self._calls,
                ErrorMapping(domain),
                CallObserver(CallMetrics(registry)),
                CallAdmission(Tokens(tokens) if tokens else None, settings.max_concurrent_calls, settings.max_streams),
                self._draining,
                RequestReceiver(
                    budget or MessageBudget(settings.max_bytes_in_flight),
                    settings.max_slow_requests,
                    settings.max_unread_bytes,
                ),
            ],
            options=server_options(settings),
        )
        for service in services:
            service.add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        serve_reflection(self._server, [*self._names, health.SERVICE_NAME])

    async def start(self, *, serving: bool = True) -> str:
        """Open the port and report the health. Return the address, HOST:PORT.

        Raises OSError if the port is in use or the TLS files cannot be used.
        """
        port = self._open_port()
        await self._server.start()
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self.set_serving(serving=serving)
        address = f"{self._settings.listen_address.rpartition(':')[0]}:{port}"
        log.info("serving", address=address, services=self._names, tls=self._settings.tls is not None)
        return address

    def _open_port(self) -> int:
        address, tls = self._settings.listen_address, self._settings.tls
        if tls is None and self._settings.token_list:
            log.warning(
                "tokens arrive unencrypted: set *_TLS_CERTIFICATE, or put a proxy with TLS in front of this server"
            )
        credentials = tls.credentials() if tls else None
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {address}: is it in use? Set *_LISTEN_ADDRESS to another address"
            ) from error

    async def set_serving(self, *, serving: bool) -> None:
        """Report the health of every service and of the server (the empty name). A dead server stays not serving."""
        serving = serving and not self._is_dead
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)
        self._serving.set(serving)

    async def report_dead(self) -> None:
        """Report NOT_SERVING for every name and for `LIVENESS`, permanently: only a restart helps."""
        self._is_dead = True
        await self.set_serving(serving=False)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def wait_for_progress(self) -> None:
        """Wait until a call starts, makes progress or ends. Only one caller may wait.

        Calls of health and reflection do not count, because probes come all the time. Idle streams do not count either.
        """
        await self._calls.wait_for_progress()

    async def stop(self) -> None:
        """Report NOT_SERVING, refuse new calls and requests, and give the calls in flight time to end."""
        self._serving.set(0)
        self._is_draining.set(1)
        # When the server stops, gRPC ends calls that have not reached a servicer. So watchers of the health learn of
        # the stop first, and call another server. A watcher that is frozen must not delay the stop.
        watched = self._health.watchers > 0
        with suppress(TimeoutError):
            await asyncio.wait_for(self._health.enter_graceful_shutdown(), HEALTH_SECONDS)
        if watched:
            await asyncio.sleep(HEALTH_SECONDS)
        until = time.monotonic() + self._settings.drain_seconds
        self._draining.begin()
        # New calls are still accepted meanwhile and may slow the streams down, so this wait is short.
        with suppress(TimeoutError):
            await asyncio.wait_for(
                self._draining.wait_for_streams(), min(STREAMS_SECONDS, self._settings.drain_seconds)
            )
        stopping = asyncio.create_task(self._server.stop(max(0.0, until - time.monotonic())))
        # `stopping` would wait for watchers of the health too; the drain ends with the calls of the services.
        ended = asyncio.create_task(self._calls.ended())
        await asyncio.wait([stopping, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        await self._server.stop(min(FLUSH_SECONDS, self._settings.drain_seconds))
        await stopping
        log.info("stopped")


def server_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Return the options for grpc.aio.server."""
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        # With bandwidth probes gRPC grows the window of every stream to megabytes and fills it before a servicer reads.
        # Without them it buffers 64 KiB of a message that no servicer reads yet.
        ("grpc.http2.bdp_probe", 0),
        # Clients still send such probes. By default the server counts their pings as abuse and closes the connection
        # with "Too many pings", for example while a client waits for a frozen embedder.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
        ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        # This holds for pings that gRPC sends for other reasons. They delay the keepalive pings until they are
        # answered.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        # Keepalive runs without calls too, so that an idle client finds its connection alive.
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may ping every 10 s. With gRPC's default the server would close their connections.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        # Otherwise two servers could share a port by mistake, and each would get a part of the calls.
        ("grpc.so_reuseport", 0),
    ]
