"""Exports traces if one of OpenTelemetry's standard variables is set."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

# Each of these turns traces on; OTEL_TRACES_EXPORTER=none and OTEL_SDK_DISABLED=true turn them off.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def is_wanted() -> bool:
    """Return whether the environment turns traces on."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    return exporter == "otlp" or (not exporter and any(os.environ.get(name) for name in ENDPOINTS))


@contextmanager
def exported(service: str) -> Iterator[None]:
    """Export the spans of this context to the collector over OTLP/gRPC; the last ones when it ends.

    `service` is the name of the process if OTEL_SERVICE_NAME is not set.
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
