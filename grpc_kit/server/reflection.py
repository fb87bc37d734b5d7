"""Serves gRPC reflection in both versions: new clients use v1, older clients use v1alpha.

grpcio-reflection serves only v1alpha. The messages of the two are the same on the wire.
"""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1ALPHA = reflection.SERVICE_NAME
V1 = V1ALPHA.replace("v1alpha", "v1")


def serve_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Add reflection to `server`. It describes the services with these full names, and itself."""
    describe(v1_contract())
    servicer = reflection.aio.ReflectionServicer([*services, V1, V1ALPHA])
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, methods) for name in (V1, V1ALPHA)])


def describe(contract: FileDescriptorProto) -> None:
    """Let reflection describe a contract, unless a package has registered its own."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(contract.name)
    except KeyError:
        pool.AddSerializedFile(contract.SerializeToString())


def v1_contract() -> FileDescriptorProto:
    """Return grpc/reflection/v1/reflection.proto, derived from v1alpha's."""
    alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    contract = text_format.Parse(text_format.MessageToString(alpha).replace("v1alpha", "v1"), FileDescriptorProto())
    contract.name = "grpc/reflection/v1/reflection.proto"
    contract.options.ClearField("deprecated")
    return contract
