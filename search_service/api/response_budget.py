"""A budget for the memory of responses in preparation."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_kit.server.message_budget import MessageBudget
from search_service.core.types import View

# Bytes of a row before the first response of a collection: a vector with 4,096 components, and some attributes.
ROW_BYTES = {View.ID: 64, View.BASIC: 1024, View.VECTOR: 4 * 4096 + 1024, View.FULL: 4 * 4096 + 1024}
# Share of the difference by which the estimate falls after a response with smaller rows.
DECAY = 0.1
# Maximum number of estimates, one for each collection and view.
MAX_ESTIMATES = 1000
# Seconds for which a unary call waits for room.
WAIT_SECONDS = 5.0


class ResponseBudget:
    """Limit the bytes of the responses in preparation. Sizes are estimated from earlier responses."""

    def __init__(self, budget: MessageBudget) -> None:
        """`budget` limits the estimates of all responses together."""
        self.budget = budget
        self._row_bytes: dict[tuple[str, View], float] = {}

    def estimate(self, collection: str, view: View, rows: int) -> int:
        """Return the estimated bytes of a response with this many rows."""
        return int(rows * self._row_bytes.get((collection, view), ROW_BYTES[view]))

    def observe(self, collection: str, view: View, rows: int, size: int) -> None:
        """Update the estimate from a response: it rises at once, and falls slowly."""
        if not rows:
            return
        key, seen = (collection, view), size / rows
        known = self._row_bytes.get(key)
        if known is None and len(self._row_bytes) >= MAX_ESTIMATES:
            self._row_bytes.clear()
        self._row_bytes[key] = seen if known is None else max(seen, known + DECAY * (seen - known))

    @asynccontextmanager
    async def reserved(self, collection: str, view: View, rows: int) -> AsyncIterator[None]:
        """Reserve room for one response. Raises ResourceExhaustedError if there is none for 5 seconds."""
        reservation = await self.budget.wait_up_to(WAIT_SECONDS, self.estimate(collection, view, rows))
        try:
            yield
        finally:
            reservation.release()
