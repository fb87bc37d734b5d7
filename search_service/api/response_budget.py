"""A budget for the memory of responses in preparation."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_kit.server.message_budget import MessageBudget
from search_service.core.types import View

# Bytes of a row before the first response of a collection: some attributes, a vector with 4,096 components, and 64
# regions of 512 components.
BASIC_BYTES, VECTOR_BYTES, REGION_BYTES = 1024, 4 * 4096, 64 * 4 * 512
ROW_BYTES = {
    View.ID: 64,
    View.BASIC: BASIC_BYTES,
    View.VECTOR: BASIC_BYTES + VECTOR_BYTES,
    View.FULL: BASIC_BYTES + VECTOR_BYTES + REGION_BYTES,
}
# Share of the difference by which the estimate falls after a response with smaller rows.
DECAY = 0.1
# Maximum number of estimates, one for each collection and view.
MAX_ESTIMATES = 1000
# Seconds for which a unary call waits for room.
WAIT_SECONDS = 5.0


class ResponseBudget:
    """Limit the bytes of the responses in preparation. Sizes are estimated from earlier responses."""

    def __init__(self, budget: MessageBudget, most_at_first: int) -> None:
        """`budget` limits all estimates together; an estimate without an earlier response is at most `most_at_first`.

        Half of the budget lets two such responses be in preparation, however large they are.
        """
        self.budget = budget
        self._most_at_first = most_at_first
        self._row_bytes: dict[tuple[str, View], float] = {}

    def estimate(self, collection: str, view: View, rows: int) -> int:
        """Return the estimated bytes of a response with this many rows."""
        known = self._row_bytes.get((collection, view))
        return min(rows * ROW_BYTES[view], self._most_at_first) if known is None else int(rows * known)

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
