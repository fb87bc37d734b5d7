"""Traces that a collector receives from another process."""

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1 import trace_pb2

from grpc_kit.server.tracing import trace_metadata
from tests.collector import Collector, collecting
from tests.unit.grpc_kit.example import SERVICE, Serving
from tests.unit.grpc_kit.traced import PARENT_ID, SAMPLED, TRACE_ID

ROOT = Path(__file__).parents[3]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as received:
        yield received


async def told_by(**variables: str) -> dict[str, Any]:
    """Return the output of the traced process with these variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.unit.grpc_kit.traced",
        cwd=ROOT,
        env={**inherited, "OTEL_EXPORTER_OTLP_INSECURE": "true", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    (line,) = [line for line in out.decode().splitlines() if line.startswith("reported ")]
    reported: dict[str, Any] = json.loads(line.removeprefix("reported "))
    return reported


def attributes_of(span: trace_pb2.Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def assert_continues(traceparent: str, trace_id: str, span_id: str) -> None:
    version, *ids, flags = traceparent.split("-")
    # The other flag means that the id of the trace is random.
    assert (version, ids, int(flags, 16) & 1) == ("00", [trace_id, span_id], 1)


def as_expected(answers: dict[str, str]) -> bool:
    """Return whether the calls were answered as without traces."""
    return [answers[name] for name in ("staged", "refuse", "fault", "stream")] == [
        "staged",
        "NOT_FOUND",
        "INTERNAL",
        "staged",
    ]


async def test_spans_of_calls_and_stages_are_part_of_the_callers_trace(collector: Collector) -> None:
    reported = await told_by(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    assert reported["wanted"]
    assert as_expected(reported["answers"])

    staged, within, refused, fault, without_parent = collector.named(f"{SERVICE}/GetModel")
    (streamed,) = collector.named(f"{SERVICE}/EmbedStream")
    for span in (staged, within, refused, fault, streamed):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
        assert span.kind == trace_pb2.Span.SPAN_KIND_SERVER
    assert without_parent.trace_id.hex() != TRACE_ID
    assert without_parent.parent_span_id == b""

    stages = [span for span in collector.spans if span.parent_span_id == staged.span_id]
    assert [(span.name, span.trace_id.hex()) for span in stages] == [
        ("decode", TRACE_ID),
        ("decode", TRACE_ID),
        ("inference", TRACE_ID),
    ]
    seconds = [(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 for span in stages]
    assert seconds == pytest.approx([0.25, 0.5, 2.0], abs=1e-6)
    # A stream has thousands of stages, so they are summed up instead of becoming spans.
    assert [span for span in collector.spans if span.parent_span_id == streamed.span_id] == []
    assert len(collector.spans) == 6 + len(stages) + 1


async def test_a_span_has_the_attributes_of_its_call_and_its_error(collector: Collector) -> None:
    await told_by(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    staged, _, refused, fault, _ = collector.named(f"{SERVICE}/GetModel")
    common = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": "GetModel"}
    assert attributes_of(staged) == {**common, "rpc.grpc.status_code": 0}
    assert attributes_of(refused) == {**common, "rpc.grpc.status_code": 5, "error.type": "NO_SUCH_THING"}
    assert attributes_of(fault) == {**common, "rpc.grpc.status_code": 13, "error.type": "INTERNAL"}
    assert staged.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert {span.status.code for span in (refused, fault)} == {trace_pb2.Status.STATUS_CODE_ERROR}
    assert [event.name for event in fault.events] == ["exception"]
    assert 0 < staged.start_time_unix_nano <= staged.end_time_unix_nano


async def test_an_outgoing_call_is_part_of_the_span_of_its_call(collector: Collector) -> None:
    reported = await told_by(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    _, within, _, _, without_parent = collector.named(f"{SERVICE}/GetModel")
    for span, name in ((within, "traceparent"), (without_parent, "no parent")):
        assert_continues(reported["answers"][name], span.trace_id.hex(), span.span_id.hex())


async def test_trace_metadata_exists_only_inside_a_span(collector: Collector) -> None:
    reported = await told_by(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    assert reported["outside"] == []
    ((key, value),) = reported["inside"]
    assert key == "traceparent"
    (span,) = collector.named("of the test")
    assert span.trace_id.hex() == reported["span"]
    assert_continues(value, reported["span"], span.span_id.hex())


async def test_the_sampling_decision_of_the_caller_is_kept(collector: Collector) -> None:
    reported = await told_by(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, CALLER=f"{SAMPLED[:-2]}00")
    assert as_expected(reported["answers"])
    assert TRACE_ID not in {span.trace_id.hex() for span in collector.spans}
    assert re.fullmatch(rf"00-{TRACE_ID}-[0-9a-f]{{16}}-00", reported["answers"]["traceparent"])


async def test_an_invalid_traceparent_starts_a_new_trace(collector: Collector) -> None:
    reported = await told_by(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, CALLER="what is this?")
    assert as_expected(reported["answers"])
    assert {span.parent_span_id for span in collector.named(f"{SERVICE}/GetModel")} == {b""}


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "the example"),
        ({"OTEL_SERVICE_NAME": "another name"}, "another name"),
        # OpenTelemetry: "The SDK MUST interpret an empty value of an environment variable the same way as when the
        # variable is unset."
        ({"OTEL_SERVICE_NAME": ""}, "the example"),
    ],
)
async def test_the_service_name_comes_from_the_environment(
    collector: Collector, variables: dict[str, str], name: str
) -> None:
    await told_by(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector.endpoint, **variables)
    assert collector.services == {name}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "COLLECTOR", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "COLLECTOR", "OTEL_TRACES_EXPORTER": "none"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "COLLECTOR",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_SDK_DISABLED": "TRUE",
        },
    ],
    ids=["nothing", "empty endpoint", "disabled", "none", "disabled in spite of otlp"],
)
async def test_without_traces_nothing_is_exported_and_nothing_fails(
    collector: Collector, variables: dict[str, str]
) -> None:
    variables = {name: value.replace("COLLECTOR", collector.endpoint) for name, value in variables.items()}
    reported = await told_by(**variables)
    assert not reported["wanted"]
    assert as_expected(reported["answers"])
    assert collector.spans == []
    # The trace of the caller is still forwarded.
    assert reported["answers"]["traceparent"] == SAMPLED
    assert (reported["outside"], reported["inside"], reported["answers"]["no parent"]) == ([], [], "")


@pytest.mark.alone
async def test_a_missing_collector_fails_no_call_and_delays_the_exit_only_briefly() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        reported = await told_by(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert as_expected(reported["answers"])
    assert reported["seconds_to_end"] < 12


def test_trace_metadata_has_the_current_span() -> None:
    assert trace_metadata() == []
    context = trace.SpanContext(int(TRACE_ID, 16), int(PARENT_ID, 16), is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert trace_metadata() == [("traceparent", SAMPLED)]
    assert trace_metadata() == []


async def test_a_process_without_traces_forwards_the_callers_trace(serving: Serving) -> None:
    async with serving() as running:
        assert await running.get("traceparent", metadata=(("traceparent", SAMPLED),)) == SAMPLED
        assert await running.get("traceparent") == ""
