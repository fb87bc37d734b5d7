"""Channels to other services: balanced per call, retried where that is safe, with limits that fit images."""

import json
from collections.abc import Sequence

import grpc
from opentelemetry import propagate

from grpc_kit.credentials import ClientTls, channel_credentials

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
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 20, 10


def service_config(repeatable: Sequence[str]) -> dict[str, object]:
    """How calls are spread over the addresses of a name, and which are repeated when a server is unavailable.

    `repeatable` has services, "package.Service", and methods, "package.Service/Method", that may be called twice.
    """
    names = [dict(zip(("service", "method"), name.split("/"), strict=False)) for name in repeatable]
    return {
        # Calls go round all addresses, not to the first one that answers.
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": names, "retryPolicy": RETRY_POLICY}] if names else [],
        # When most calls fail, repeating them all would only add to it: it ends after 100 failures more than successes.
        # A server that stops fails all that it has been sent at a time, which must not be enough.
        "retryThrottling": {"maxTokens": 200, "tokenRatio": 1},
    }


def channel_options(max_message_bytes: int, repeatable: Sequence[str] = ()) -> list[tuple[str, str | int]]:
    """Options for grpc.insecure_channel and its kin.

    Args:
        max_message_bytes: bounds one message either way.
        repeatable: see `service_config`.
    """
    return [
        ("grpc.service_config", json.dumps(service_config(repeatable))),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_HEADROOM * max_message_bytes),
        # A proxy from the environment would be used even for loopback and cluster addresses.
        ("grpc.enable_http_proxy", 0),
    ]


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
        target: HOST:PORT or any gRPC name such as "dns:///embedder:50051".
        max_message_bytes: bounds one message either way.
        repeatable: see `service_config`.
        tls: None is plain text.
        token: shown with each call; it needs TLS.

    Raises CredentialsError.
    """
    options = channel_options(max_message_bytes, repeatable)
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
    options = channel_options(max_message_bytes, repeatable)
    credentials = channel_credentials(tls, token)
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def trace_metadata() -> list[tuple[str, str]]:
    """Metadata for a call, by which it becomes a part of the trace that is under way (W3C Trace Context)."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return list(carrier.items())
