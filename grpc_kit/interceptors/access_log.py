"""One log line for every call."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog

from grpc_kit.deadline import Deadline
from grpc_kit.interceptors.around import AroundCalls, Context

log = structlog.stdlib.get_logger()

# A context gives its code as it was set: as a StatusCode or as its number.
_NAMES: dict[object, str] = {key: code.name for code in grpc.StatusCode for key in (code, code.value[0])}


class AccessLog(AroundCalls):
    """Logs method, code, duration in milliseconds and peer of each call when it has ended."""

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        """Times the call."""
        begin = time.perf_counter()
        # Now and not at the end: gRPC crashes the process when a call that is over is asked for its peer.
        peer = context.peer()
        deadline = Deadline.after(context.time_remaining())
        code = ""
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            # The caller went away, or its time ran out; the context does not tell. A stream is told by GeneratorExit
            # when that happens while a response is on its way.
            code = "CANCELLED" if deadline.remaining() > 0 else "DEADLINE_EXCEEDED"
            raise
        finally:
            elapsed = (time.perf_counter() - begin) * 1e3
            # No code is set where the call went well.
            code = code or _NAMES.get(context.code() or 0, "UNKNOWN")
            log.info("call", method=method, code=code, ms=round(elapsed, 1), peer=peer)
