"""gRPC channels: calls are balanced over servers, retried if that is safe, and limited to the size of images."""

import json
from collections.abc import Sequence

import grpc

from grpc_kit.credentials import ClientTls, CredentialsError, channel_credentials
from grpc_kit.health import LIVENESS

# gRPC never retries a request that is larger than its buffer, and does not report that. The default is 256 KiB.
RETRY_BUFFER_HEADROOM = 2

# A server that stops ends calls that have not reached a servicer with CANCELLED (grpc/grpc#41785). gRPC does not retry
# a call that its own caller cancelled.
RETRYABLE = ("UNAVAILABLE", "CANCELLED")
RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": RETRYABLE,
}

# Seconds without traffic after which the client pings the server, and seconds for the answer. The server allows this.
# Their sum is below the 20 s deadline of a search service's call to an embedder, so that a call to a frozen embedder is
# retried.
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 12, 5

# Minimum seconds between two DNS lookups: the TTL of a headless Service's record. With gRPC's default of 30 s a new
# replica would get no calls for that long.
RESOLVE_SECONDS = 5
# Maximum seconds between two attempts to connect; gRPC adds up to a fifth. With gRPC's default of 120 s clients would
# find a restarted server late.
RECONNECT_SECONDS = 2

# Targets that resolve to servers. A plain HOST:PORT may be a proxy for several servers, and its health is not the
# health of a server behind it.
SEVERAL = ("dns:", "ipv4:", "ipv6:")


def service_config(repeatable: Sequence[str], *, watched: bool = False) -> dict[str, object]:
    """Return how calls are balanced over the addresses of a name, and which are retried if a server is unavailable.

    Args:
        repeatable: services, "package.Service", and methods, "package.Service/Method", that may be called twice.
        watched: watch the health of each server. A server that stops or is dead gets no further calls, so that calls
            that may not be retried reach a healthy server.
    """
    names = [dict(zip(("service", "method"), name.split("/"), strict=False)) for name in repeatable]
    return {
        # Balance calls over all addresses, instead of using the first one that answers.
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": names, "retryPolicy": RETRY_POLICY}] if names else [],
        # If most calls fail, retries would add load: they end after 500 more failures than successes. The calls that
        # fail when one server dies must not reach this limit; one connection has at most 256 calls.
        "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1},
        # Liveness and not the health of the server: a search service without Milvus still answers with a reason.
        **({"healthCheckConfig": {"serviceName": LIVENESS}} if watched else {}),
    }


def channel_options(
    max_message_bytes: int, repeatable: Sequence[str] = (), *, watched: bool = False
) -> list[tuple[str, str | int]]:
    """Return the options of a channel.

    Args:
        max_message_bytes: maximum size of a message, in both directions.
        repeatable: see `service_config`.
        watched: see `service_config`.
    """
    return [
        ("grpc.service_config", json.dumps(service_config(repeatable, watched=watched))),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        # gRPC sends one ping at a time. A keepalive ping waits for the answer to gRPC's own ping, which measures the
        # connection: by default for 60 s.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_SECONDS * 1000),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_SECONDS * 1000),
        # By default all channels of a process share connections and pauses: a new channel to a restarted server would
        # wait for the pause of an old one.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_HEADROOM * max_message_bytes),
        # gRPC would use a proxy from the environment even for loopback and cluster addresses.
        ("grpc.enable_http_proxy", 0),
    ]


def _address(target: str) -> str:
    """Return a target without surrounding spaces. Raises CredentialsError for a URL."""
    plain = target.strip()
    if plain.lower().startswith(("http://", "https://")):
        raise CredentialsError(
            f"{plain} is not a gRPC address: use HOST:PORT, and the TLS settings instead of https://"
        )
    return plain


def open_channel(
    target: str,
    max_message_bytes: int,
    repeatable: Sequence[str] = (),
    *,
    tls: ClientTls | None = None,
    token: str = "",
) -> grpc.aio.Channel:
    """Open a channel for asyncio.

    Args:
        target: HOST:PORT, or a gRPC name such as "dns:///embedder:50051"; the health of its servers is watched.
        max_message_bytes: maximum size of a message, in both directions.
        repeatable: see `service_config`.
        tls: None means plain text.
        token: sent with each call; needs TLS.

    Raises CredentialsError.
    """
    target = _address(target)
    options = channel_options(max_message_bytes, repeatable, watched=target.startswith(SEVERAL))
    credentials = channel_credentials(tls, token)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


def open_blocking_channel(
    target: str,
    max_message_bytes: int,
    repeatable: Sequence[str] = (),
    *,
    tls: ClientTls | None = None,
    token: str = "",
) -> grpc.Channel:
    """Open a channel for threads. The arguments are those of `open_channel`."""
    target = _address(target)
    options = channel_options(max_message_bytes, repeatable, watched=target.startswith(SEVERAL))
    credentials = channel_credentials(tls, token)
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)
