"""Channels to other services: balanced per call, retried where that is safe, with limits that fit images."""

import json

import grpc

# A request that is larger than this buffer is never retried, and gRPC says nothing of it. Its default is 256 KiB.
RETRY_BUFFER_HEADROOM = 2

SERVICE_CONFIG = {
    # Calls go round all addresses of the name, not to the first one that answers.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            # Every call of these services can be repeated: reads change nothing, and writes are idempotent by id.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


def channel_options(max_message_bytes: int) -> list[tuple[str, str | int]]:
    """Options for grpc.insecure_channel and its kin. `max_message_bytes` bounds one message either way."""
    return [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_HEADROOM * max_message_bytes),
        # A proxy from the environment would be used even for loopback and cluster addresses.
        ("grpc.enable_http_proxy", 0),
    ]


def open_channel(target: str, max_message_bytes: int) -> grpc.aio.Channel:
    """A channel for asyncio. `target` is HOST:PORT or any gRPC name such as "dns:///embedder:50051"."""
    return grpc.aio.insecure_channel(target, options=channel_options(max_message_bytes))
