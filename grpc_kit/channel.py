"""Channels to other services: balanced per call, retried where that is safe, with limits that fit images."""

import json
from collections.abc import Sequence

import grpc

from grpc_kit.credentials import ClientTls, CredentialsError, channel_credentials
from grpc_kit.health import LIVENESS

# A request that is larger than this buffer is never retried, and gRPC says nothing of it. Its default is 256 KiB.
RETRY_BUFFER_HEADROOM = 2

# CANCELLED is how gRPC's core, at a server that stops, ends calls that no servicer has seen (grpc/grpc#41785). A call
# that its own caller cancels is not repeated.
RETRYABLE = ("UNAVAILABLE", "CANCELLED")
RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": RETRYABLE,
}

# Seconds without traffic after which a connection is tried, and after which it is given up. The server allows this.
# Together less than the 20 s that the search service gives an embedder, so that a call to a frozen one is repeated.
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 12, 5

# Seconds between two looks at a name, at the least: what an answer for a headless Service lives. gRPC's default is 30,
# which would be all the time that a new replica may take to get its share.
RESOLVE_SECONDS = 5
# Most seconds between two tries to reach an address that refuses. gRPC's default is 120, long after a server is back.
RECONNECT_SECONDS = 5

# Targets whose addresses are servers. What answers at a plain HOST:PORT may be a proxy in front of several, whose
# health is not that of the one it asks.
SEVERAL = ("dns:", "ipv4:", "ipv6:")


def service_config(repeatable: Sequence[str], *, watched: bool = False) -> dict[str, object]:
    """How calls are spread over the addresses of a name, and which are repeated when a server is unavailable.

    `repeatable` has services, "package.Service", and methods, "package.Service/Method", that may be called twice.
    With `watched` each server is asked to tell when it stops, or is past help, and gets no further calls from then on:
    also those that may not be repeated find a server that takes them.
    """
    names = [dict(zip(("service", "method"), name.split("/"), strict=False)) for name in repeatable]
    return {
        # Calls go round all addresses, not to the first one that answers.
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": names, "retryPolicy": RETRY_POLICY}] if names else [],
        # When most calls fail, repeating them all would only add to it: it ends after 500 failures more than successes.
        # A server that dies fails all that it has been sent, which must not be enough: it takes 256 of a connection.
        "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1},
        # Not the health of the whole: a search service without Milvus still has a reason to tell.
        **({"healthCheckConfig": {"serviceName": LIVENESS}} if watched else {}),
    }


def channel_options(
    max_message_bytes: int, repeatable: Sequence[str] = (), *, watched: bool = False
) -> list[tuple[str, str | int]]:
    """Options for grpc.insecure_channel and its kin.

    Args:
        max_message_bytes: bounds one message either way.
        repeatable: see `service_config`.
        watched: see `service_config`.
    """
    return [
        ("grpc.service_config", json.dumps(service_config(repeatable, watched=watched))),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        # gRPC has one ping under way at a time. Where it has sent one of its own, to learn how fast the connection is,
        # that of the keepalive waits for its answer: for 60 s, unless this says less.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_SECONDS * 1000),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_SECONDS * 1000),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_HEADROOM * max_message_bytes),
        # A proxy from the environment would be used even for loopback and cluster addresses.
        ("grpc.enable_http_proxy", 0),
    ]


def _address(target: str) -> str:
    """Return a target without the spaces around it. Raises CredentialsError for a URL."""
    plain = target.strip()
    if plain.lower().startswith(("http://", "https://")):
        raise CredentialsError(
            f"{plain} is no address of gRPC: write HOST:PORT, and use the settings for TLS instead of https://"
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
    """A channel for asyncio.

    Args:
        target: HOST:PORT or any gRPC name such as "dns:///embedder:50051", whose servers tell when they stop.
        max_message_bytes: bounds one message either way.
        repeatable: see `service_config`.
        tls: None is plain text.
        token: shown with each call; it needs TLS.

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
    """A channel for threads; as `open_channel`."""
    target = _address(target)
    options = channel_options(max_message_bytes, repeatable, watched=target.startswith(SEVERAL))
    credentials = channel_credentials(tls, token)
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)
