"""Asks a server for its health by grpc.health.v1."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# Name of the health check for liveness: it fails if only a restart can help. The health of the server (the empty name)
# also fails if another server is unavailable; a restart would not help then.
LIVENESS = "liveness"


def is_serving(channel: grpc.Channel, timeout: float, service: str = "") -> bool:
    """Return whether a server reports SERVING for `service`; the empty name is the server as a whole.

    `timeout` is in seconds. Raises grpc.RpcError, with NOT_FOUND if the server does not know the service.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)  # type: ignore[attr-defined]
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def is_serving_async(
    channel: grpc.aio.Channel,
    timeout: float,  # noqa: ASYNC109 - gRPC ends the call
    service: str = "",
) -> bool:
    """Return what `is_serving` returns, for a channel of asyncio."""
    stub = health_pb2_grpc.HealthStub(channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)  # type: ignore[attr-defined]
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
