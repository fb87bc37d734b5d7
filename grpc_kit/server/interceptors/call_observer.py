"""Observes every call: a log line, metrics, a span, and the times of its stages as trailing metadata."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog
from opentelemetry import context as trace_context
from opentelemetry import propagate, trace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError, error_for_fault
from grpc_kit.server import stages
from grpc_kit.server.interceptors.context_interceptor import Call, Context, ContextInterceptor
from grpc_kit.status import code_of

log = structlog.stdlib.get_logger()

SERVER_TIMING = "server-timing"
# Seconds by which a caller's clock may be ahead. The caller cancels at its deadline, which may be before the server's.
CLOCK_SLACK = 0.05

# In seconds: from a refusal to a large image behind a full queue.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class CallMetrics:
    """Counts and times calls. The names are those of gRPC's Prometheus metrics in other languages."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Create the metrics in `registry`."""
        method = ("grpc_service", "grpc_method")
        self.started = Counter("grpc_server_started", "Calls started.", method, registry=registry)
        self.in_flight = Gauge("grpc_server_in_flight", "Calls in flight.", method, registry=registry)
        self.handled = Counter("grpc_server_handled", "Calls that ended.", (*method, "grpc_code"), registry=registry)
        self.refused = Counter(
            "grpc_server_refused", "Calls that ended with an error, by reason.", (*method, "reason"), registry=registry
        )
        self.seconds = Histogram(
            "grpc_server_handling_seconds",
            "Duration of a call in seconds. A stream is one call.",
            method,
            buckets=BUCKETS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "grpc_server_stage_seconds",
            "Time of a call in one of its stages, in seconds. Streams are not counted, because their stages overlap.",
            (*method, "stage"),
            buckets=BUCKETS,
            registry=registry,
        )


class CallObserver(ContextInterceptor):
    """Reports each call when it ends: method, code, reason, duration, peer and stages."""

    def __init__(self, metrics: CallMetrics) -> None:
        """Create the interceptor. Spans go to the OpenTelemetry provider of the process, if there is one."""
        super().__init__()
        self._metrics = metrics
        self._tracer = trace.get_tracer("grpc_kit")

    @asynccontextmanager
    async def around(self, call: Call, context: Context) -> AsyncIterator[None]:
        """Time the call and report it."""
        began = time.monotonic()
        # Read the peer now: gRPC crashes the process if it is read after the call has ended.
        peer = context.peer()
        deadline = Deadline.after(context.time_remaining())
        labels = call.service, call.name
        self._metrics.started.labels(*labels).inc()
        self._metrics.in_flight.labels(*labels).inc()
        span = self._begin_span(call, context)
        timed = stages.collect(spans=not call.streams)
        code, reason = grpc.StatusCode.OK.name, ""
        try:
            yield
            context.set_trailing_metadata(((SERVER_TIMING, _timing(timed, began)),))
        except (asyncio.CancelledError, GeneratorExit):
            # The caller cancelled or its deadline passed; the context does not say which. A stream gets GeneratorExit
            # if this happens while it sends a response.
            code = "CANCELLED" if deadline.remaining() > CLOCK_SLACK else "DEADLINE_EXCEEDED"
            raise
        except ServiceError as error:
            code, reason = code_of(error).name, error.reason
            context.set_trailing_metadata(((SERVER_TIMING, _timing(timed, began)),))
            raise
        except Exception as error:
            meaning = error_for_fault(error)
            code, reason = code_of(meaning).name, meaning.reason
            span.record_exception(error)
            raise
        finally:
            seconds = time.monotonic() - began
            self._metrics.in_flight.labels(*labels).dec()
            self._metrics.seconds.labels(*labels).observe(seconds)
            self._metrics.handled.labels(*labels, code).inc()
            if reason:
                self._metrics.refused.labels(*labels, reason).inc()
            if not call.streams:
                for stage, spent in timed.seconds.items():
                    self._metrics.stage_seconds.labels(*labels, stage).observe(spent)
            _end_span(span, code, reason)
            times = {f"{stage}_ms": round(spent * 1e3, 1) for stage, spent in timed.seconds.items()}
            reported = {"reason": reason} if reason else {}
            log.info("call", method=call.method, code=code, **reported, ms=round(seconds * 1e3, 1), **times, peer=peer)

    def _begin_span(self, call: Call, context: Context) -> trace.Span:
        """The call's span, which is the current one from here on in this task; its parent is the caller's."""
        carrier = {str(key): value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        span = self._tracer.start_span(
            call.method.lstrip("/"),
            propagate.extract(carrier),
            trace.SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": call.service, "rpc.method": call.name},
        )
        # Never detached, like the stages.
        trace_context.attach(trace.set_span_in_context(span))
        return span


def _timing(timed: stages.Stages, began: float) -> str:
    """Return the times of the stages and of the call in milliseconds, in the format of Server-Timing (W3C)."""
    seconds = {**timed.seconds, "total": time.monotonic() - began}
    return ", ".join(f"{stage};dur={spent * 1e3:.1f}" for stage, spent in seconds.items())


def _end_span(span: trace.Span, code: str, reason: str) -> None:
    span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
    if reason:
        span.set_attribute("error.type", reason)
    if code != grpc.StatusCode.OK.name:
        span.set_status(trace.StatusCode.ERROR, reason)
    span.end()
