"""A process that serves the example with tracing, calls it and prints the results.

A process of its own, because OpenTelemetry has one provider a process.
"""

import asyncio
import json
import os
import time

import grpc
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from grpc_kit.channel import open_channel
from grpc_kit.server import tracing
from grpc_kit.server.tracing import trace_metadata
from tests.unit.grpc_kit.example import Example, make_server, stream

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01"
NAMES = ("staged", "traceparent", "refuse", "fault")


async def serve_and_call() -> dict[str, str]:
    servicer = Example()
    server = make_server(servicer, CollectorRegistry())
    address = await server.start()
    caller = [("traceparent", os.environ.get("CALLER", SAMPLED))]
    answers = {}
    async with open_channel(address, 1_000_000) as channel:
        for name in NAMES:
            try:
                answers[name] = await model_name(channel, name, caller)
            except grpc.aio.AioRpcError as error:
                answers[name] = error.code().name
        answers["stream"] = ",".join(await stream(channel, ["staged"], metadata=caller))
        answers["no parent"] = await model_name(channel, "traceparent", [])
    await server.stop()
    return answers


async def model_name(channel: grpc.aio.Channel, name: str, metadata: list[tuple[str, str]]) -> str:
    stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
    response = await stub.GetModel(embedder_pb2.GetModelRequest(name=name), metadata=metadata)
    return response.model.name


def main() -> None:
    reported: dict[str, object] = {"outside": trace_metadata(), "wanted": tracing.is_wanted()}
    with tracing.exported("the example"):
        reported["answers"] = asyncio.run(serve_and_call())
        with trace.get_tracer("test").start_as_current_span("of the test") as span:
            reported["span"] = f"{span.get_span_context().trace_id:032x}"
            reported["inside"] = trace_metadata()
        began = time.monotonic()
    reported["seconds_to_end"] = time.monotonic() - began
    print(f"reported {json.dumps(reported)}")  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main()
