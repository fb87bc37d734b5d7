"""Reflection v1 and v1alpha, used by clients without contracts."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha import reflection_pb2

from grpc_kit.server.reflection import v1_contract
from tests.harness.certificates import Authority
from tests.unit.grpc_kit.example import SERVICE, Serving, failure, info_of

PROTOS = Path(__file__).parents[3] / "protos"
TOKEN = "a-token-for-the-reflection-tests"  # noqa: S105 - made up
ALL = {
    SERVICE,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
versions = pytest.mark.parametrize("version", ["v1", "v1alpha"])


async def buf_curl(version: str, *arguments: str) -> tuple[int, str, str]:
    """Run `buf curl` with one version of reflection."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "buf",
        *("curl", "--protocol", "grpc", "--reflect-protocol", f"grpc-{version}", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


@versions
async def test_a_client_without_contracts_lists_the_services_and_calls_one(serving: Serving, version: str) -> None:
    async with serving() as running:
        url = f"http://{running.address}"
        _, listed, _ = await buf_curl(version, "--http2-prior-knowledge", "--list-services", url)
        assert set(listed.split()) == ALL
        _, answer, _ = await buf_curl(
            version, "--http2-prior-knowledge", "--data", '{"name": "a name"}', f"{url}/{SERVICE}/GetModel"
        )
    assert json.loads(answer) == {"model": {"name": "a name"}}


@versions
async def test_reflection_describes_itself(serving: Serving, version: str) -> None:
    async with serving() as running:
        _, listed, _ = await buf_curl(version, "--http2-prior-knowledge", "--list-methods", f"http://{running.address}")
    assert {f"{service}/ServerReflectionInfo" for service in ALL if "reflection" in service} <= set(listed.split())


@versions
async def test_reflection_requires_the_token_over_tls_too(serving: Serving, version: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server")
    async with serving(tokens=TOKEN, tls_certificate=pair.certificate, tls_key=pair.key) as running:
        call = ("--cacert", str(authority.file), "--list-services", f"https://{running.address}")
        code, listed, errors = await buf_curl(version, *call)
        assert (code != 0, listed) == (True, "")
        assert "not authenticated" in errors
        _, listed, _ = await buf_curl(version, "--reflect-header", f"authorization: Bearer {TOKEN}", *call)
    assert set(listed.split()) == ALL


@versions
async def test_a_call_without_a_token_is_refused_with_a_reason(serving: Serving, version: str) -> None:
    async def ask(metadata: tuple[tuple[str, str], ...]) -> int:
        call = running.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        return len([response async for response in call(iter(requests), metadata=metadata)])

    async with serving(tokens=TOKEN) as running:
        error = await failure(ask(()))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
        assert await ask((("authorization", f"Bearer {TOKEN}"),)) == 1


def test_the_v1_contract_equals_the_published_one(tmp_path: Path) -> None:
    compiled = tmp_path / "reflection.binpb"
    name = "grpc/reflection/v1/reflection.proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--descriptor_set_out={compiled}", name]
    subprocess.run(command, check=True)
    (published,) = FileDescriptorSet.FromString(compiled.read_bytes()).file
    made = v1_contract()
    for contract in (made, published):
        forget_json_names(contract)
        contract.ClearField("options")
        contract.ClearField("syntax")
    assert made == published


def forget_json_names(contract: FileDescriptorProto) -> None:
    for message in contract.message_type:
        for field in message.field:
            field.ClearField("json_name")
