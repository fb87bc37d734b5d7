"""Sends traces, by OpenTelemetry's standard variables, where one of them asks for it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

# Any of these asks for traces; OTEL_TRACES_EXPORTER=none and OTEL_SDK_DISABLED=true forbid them.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def is_wanted() -> bool:
    """Whether the environment asks for traces."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    return exporter == "otlp" or (not exporter and any(os.environ.get(name) for name in ENDPOINTS))


@contextmanager
def exported(service: str) -> Iterator[None]:
    """Sends the spans that are made inside to the collector, over OTLP/gRPC; the last ones at the end.

    `service` is what the process is called where OTEL_SERVICE_NAME does not say.
    """
    if not is_wanted():
        yield
        return
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


def trace_metadata() -> list[tuple[str, str]]:
    """Return the metadata that makes a call part of the current trace (W3C Trace Context)."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return list(carrier.items())
