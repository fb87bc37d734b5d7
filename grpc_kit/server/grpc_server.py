"""A gRPC server with health, reflection, TLS, tokens, error mapping, a log line a call, metrics, and a clean stop."""

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
from grpc_kit.server.interceptors.draining import Draining, UnderWay
from grpc_kit.server.interceptors.entry import Entry
from grpc_kit.server.interceptors.errors import ErrorMapping
from grpc_kit.server.interceptors.observed import CallMetrics, Observed
from grpc_kit.server.interceptors.receiving import Receiving
from grpc_kit.server.interceptors.tokens import Tokens
from grpc_kit.server.message_budget import MessageBudget
from grpc_kit.server.reflection import serve_reflection
from grpc_kit.server.settings import ServerSettings

log = structlog.stdlib.get_logger()

KEEPALIVE_TIMEOUT_SECONDS = 10
# Seconds in which callers that watch the health hear of the stop, and what they sent before that arrives.
TELL_SECONDS = 0.5
# Seconds in which most streams have ended that were told to, and their callers have heard of it.
STREAMS_SECONDS = 2.0
# Seconds in which gRPC may send the last answers.
FLUSH_SECONDS = 2.0


@dataclass(frozen=True)
class Service:
    """A service to serve: its descriptor, and the call that adds its servicer to a server."""

    descriptor: ServiceDescriptor
    add_to: Callable[[grpc.aio.Server], None]


class WatchedHealth(health.aio.HealthServicer):
    """Knows whether anybody watches it."""

    def __init__(self) -> None:
        """Nobody does."""
        super().__init__()
        self.watchers = 0

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Tells of every change."""
        self.watchers += 1
        try:
            await super().Watch(request, context)
        finally:
            self.watchers -= 1


class Server:
    """Serves some services on one address."""

    def __init__(
        self,
        services: Sequence[Service],
        settings: ServerSettings,
        domain: str,
        registry: CollectorRegistry,
        budget: MessageBudget | None = None,
    ) -> None:
        """Makes the server; `start` opens it.

        Args:
            services: what is served.
            settings: how.
            domain: is written into every ErrorInfo.
            registry: gets the metrics of the calls.
            budget: bounds the messages of unary calls, and of what else shares it; None makes one of the settings.
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
        self._under_way = UnderWay()
        self._draining = Draining(self._under_way.note_work)
        tokens = settings.token_list
        self._server = grpc.aio.server(
            # The first is the outermost.
            interceptors=[
                self._under_way,
                ErrorMapping(domain),
                Observed(CallMetrics(registry)),
                Entry(Tokens(tokens) if tokens else None, settings.max_concurrent_calls, settings.max_streams),
                self._draining,
                Receiving(
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
        """Opens the port and reports its health; gives the address, HOST:PORT.

        Raises OSError where the port is taken or the files of TLS cannot be used.
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
            log.warning("tokens come in plain text: have TLS in front of this server, or set *_TLS_CERTIFICATE")
        credentials = tls.credentials() if tls else None
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is it in use? *_LISTEN_ADDRESS names another") from error

    async def set_serving(self, *, serving: bool) -> None:
        """Report the health of every service, and of the whole server (the empty name); a dead one stays so."""
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

    async def worked(self) -> None:
        """Wait until a call has begun, made progress or ended since the last return. Only one caller may wait.

        Calls of health and reflection do not count, because probes come all the time. Nor does a stream that waits.
        """
        await self._under_way.worked()

    async def stop(self) -> None:
        """Reports NOT_SERVING, takes no new calls and no further items, and gives those under way their time to end."""
        self._serving.set(0)
        self._is_draining.set(1)
        # gRPC ends calls that come in the moment of the stop and that no servicer has seen. So those who watch are told
        # first, and call elsewhere. One of them that is frozen must not hold up the stop.
        watched = self._health.watchers > 0
        with suppress(TimeoutError):
            await asyncio.wait_for(self._health.enter_graceful_shutdown(), TELL_SECONDS)
        if watched:
            await asyncio.sleep(TELL_SECONDS)
        until = time.monotonic() + self._settings.drain_seconds
        self._draining.begin()
        # New calls are still taken meanwhile, and hold up the streams: not for long.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._draining.heard(), min(STREAMS_SECONDS, self._settings.drain_seconds))
        stopping = asyncio.create_task(self._server.stop(max(0.0, until - time.monotonic())))
        # Who watches the health would hold the server for the whole time: only the services' own calls are waited for.
        ended = asyncio.create_task(self._under_way.ended())
        await asyncio.wait([stopping, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        await self._server.stop(min(FLUSH_SECONDS, self._settings.drain_seconds))
        await stopping
        log.info("stopped")


def server_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """The options for grpc.aio.server."""
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        # With probes gRPC widens the window of every stream to megabytes, and fills it before anybody reads. Without
        # them it buffers 64 KiB of a message that nobody reads, and all of one that somebody does.
        ("grpc.http2.bdp_probe", 0),
        # Clients probe still. A server that does not counts their pings as abuse, and hung up with "Too many pings" on
        # clients that waited for a frozen embedder.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
        ("grpc.keepalive_time_ms", int(settings.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        # Of the pings that gRPC sends for itself, which hold up those of the keepalive until they are answered.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        # Also while no call is under way: who waits long for its next one should find the connection alive.
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may ask every 10 s whether the connection lives; gRPC's default would hang up on them.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        # Otherwise two servers could share a port, and each get some of the calls, in silence.
        ("grpc.so_reuseport", 0),
    ]
