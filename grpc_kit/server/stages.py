"""Times of the stages of a call: for its log line, its trailing metadata and its trace."""

import time
from contextvars import ContextVar

from opentelemetry import trace

_current: ContextVar["Stages | None"] = ContextVar("stages", default=None)


class Stages:
    """The seconds of one call in each stage, by name. A stage that runs several times has the sum."""

    def __init__(self, *, spans: bool) -> None:
        """Start without stages; with `spans` each stage becomes a span of the call's trace."""
        self.seconds: dict[str, float] = {}
        self._spans = spans

    def add(self, stage: str, began: float, ended: float) -> None:
        """Add the time of a stage. Both moments come from time.monotonic."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + ended - began
        if self._spans and trace.get_current_span().is_recording():
            # A span needs wall clock times in nanoseconds.
            offset = time.time_ns() - time.monotonic_ns()
            span = trace.get_tracer(__name__).start_span(stage, start_time=int(began * 1e9) + offset)
            span.end(int(ended * 1e9) + offset)


def collect(*, spans: bool) -> Stages:
    """Return an object that collects the stages of this task and of the tasks that it creates from now on."""
    stages = Stages(spans=spans)
    # Never reset: the task belongs to one call and ends with it. A stream may be closed from another task.
    _current.set(stages)
    return stages


def record(stage: str, began: float, ended: float) -> None:
    """Add the time of a stage to the current call, if there is one."""
    stages = _current.get()
    if stages is not None:
        stages.add(stage, began, ended)
