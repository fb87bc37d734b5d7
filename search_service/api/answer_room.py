"""Room for answers: the memory that the rows of an answer take while it is made."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_kit.server.message_budget import MessageBudget
from search_service.core.types import View

# Bytes of a row that nobody has seen yet, by view: a vector of 4,096 components, and some attributes.
ROW_BYTES = {View.ID: 64, View.BASIC: 1024, View.FULL: 4 * 4096 + 1024}
# How fast the estimate follows rows that are smaller than it.
DECAY = 0.1
# Pairs of collection and view whose rows are remembered.
MOST = 1000
# Seconds for which a unary call waits for room.
WAIT_SECONDS = 5.0


class AnswerRoom:
    """Bounds the bytes of the answers that are being made, by an estimate from the answers before."""

    def __init__(self, budget: MessageBudget) -> None:
        """`budget` bounds the estimates of all answers together."""
        self.budget = budget
        self._row_bytes: dict[tuple[str, View], float] = {}

    def expected(self, collection: str, view: View, rows: int) -> int:
        """Return the estimated bytes of an answer of so many rows."""
        return int(rows * self._row_bytes.get((collection, view), ROW_BYTES[view]))

    def observe(self, collection: str, view: View, rows: int, size: int) -> None:
        """Learn from an answer. The estimate rises at once, and falls slowly."""
        if not rows:
            return
        seen, known = size / rows, self._row_bytes.get((collection, view))
        if known is None and len(self._row_bytes) >= MOST:
            self._row_bytes.clear()
        rises = known is None or seen >= known
        self._row_bytes[collection, view] = seen if rises or known is None else known + DECAY * (seen - known)

    @asynccontextmanager
    async def held(self, collection: str, view: View, rows: int) -> AsyncIterator[None]:
        """Hold the room for one answer. Raises ResourceExhaustedError if there is none for a while."""
        place = await self.budget.wait_up_to(WAIT_SECONDS, self.expected(collection, view, rows))
        try:
            yield
        finally:
            place.leave()
