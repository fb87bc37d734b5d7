"""How long the stages of a call took: for its log line, its trailing metadata and its trace."""

import time
from contextvars import ContextVar

from opentelemetry import trace

_current: ContextVar["Stages | None"] = ContextVar("stages", default=None)


class Stages:
    """The seconds of one call's stages, by name; where a stage is gone through many times, their sum."""

    def __init__(self, *, spans: bool) -> None:
        """`spans`: whether each stage becomes a span of the call's trace."""
        self.seconds: dict[str, float] = {}
        self._spans = spans

    def add(self, stage: str, began: float, ended: float) -> None:
        """Counts one passage; both moments are of time.monotonic."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + ended - began
        if self._spans and trace.get_current_span().is_recording():
            # A span has times of the wall clock, in nanoseconds.
            offset = time.time_ns() - time.monotonic_ns()
            span = trace.get_tracer(__name__).start_span(stage, start_time=int(began * 1e9) + offset)
            span.end(int(ended * 1e9) + offset)


def collect(*, spans: bool) -> Stages:
    """Collects what is recorded from here on in this task and in those that it makes."""
    stages = Stages(spans=spans)
    # Never set back: the task is a call's own and ends with it. A stream may be closed from another task.
    _current.set(stages)
    return stages


def record(stage: str, began: float, ended: float) -> None:
    """Counts a passage through a stage for the call that is under way here, where there is one."""
    stages = _current.get()
    if stages is not None:
        stages.add(stage, began, ended)
