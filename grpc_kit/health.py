"""Asking a server for its health, as grpc.health.v1 has it."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# The name of the health that says whether a restart would help. The server as a whole (the empty name) may be not
# serving because another server is away, and then it would not.
LIVENESS = "liveness"


def is_serving(channel: grpc.Channel, timeout: float, service: str = "") -> bool:
    """Whether the server reports SERVING for `service`, or as a whole.

    `timeout` is in seconds. Raises grpc.RpcError, with NOT_FOUND where the server does not know the service.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)  # type: ignore[attr-defined]
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
