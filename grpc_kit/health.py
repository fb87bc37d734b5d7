"""Asking a server for its health, as grpc.health.v1 has it."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def is_serving(channel: grpc.Channel, timeout: float) -> bool:
    """Whether the server as a whole reports SERVING. `timeout` is in seconds. Raises grpc.RpcError."""
    stub = health_pb2_grpc.HealthStub(channel)
    response = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)  # type: ignore[attr-defined]
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
