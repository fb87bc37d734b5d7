"""Whose turn it is: one network runs at a time, for each run takes every processor."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from grpc_kit.server.hang_watch import HangWatch

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Waiting:
    """A model that waits for its turn."""

    has_interactive: Callable[[], bool]
    turn: "asyncio.Future[None]"


class Turns:
    """Shared by the batchers of a process. All methods belong to one event loop.

    A model with interactive images goes ahead of those that have bulk ones alone; these are kept a share of the turns.
    """

    def __init__(self, executor: Executor, bulk_share: float = 0.25, watch: HangWatch | None = None) -> None:
        """Nobody's turn yet.

        Args:
            executor: what networks are run in.
            bulk_share: turns of bulk images alone for each interactive one while both wait, in 0..1.
            watch: detects runs that do not end; None detects none.
        """
        self._executor = executor
        self._watch = watch or HangWatch()
        self._bulk_share = bulk_share
        # What models with bulk images alone are owed; at 1 it is their turn.
        self._bulk_credit = 0.0
        self._taken = False
        self._waiting: list[_Waiting] = []
        self.last_interactive = -math.inf
        """When the last interactive image came, of any model, by the batchers' clock."""

    @asynccontextmanager
    async def take(self, has_interactive: Callable[[], bool]) -> AsyncIterator[None]:
        """Waits for the turn of a model, which is over at the end.

        Args:
            has_interactive: whether it has interactive images by now; they may come while it waits.
        """
        if self._taken:
            waiting = _Waiting(has_interactive, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            try:
                await waiting.turn
            except asyncio.CancelledError:
                if not waiting.turn.cancelled():
                    self._pass_on()
                raise
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def run(self, limit: float, function: Callable[..., Result], *arguments: object) -> Result:
        """Run a blocking function within a turn. Raises HungError if it takes more than `limit` seconds."""
        return await self._watch.run(self._executor, "a run of a network", limit, function, *arguments)

    def _pass_on(self) -> None:
        self._waiting = [waiting for waiting in self._waiting if not waiting.turn.cancelled()]
        self._taken = bool(self._waiting)
        if self._taken:
            following = self._next()
            self._waiting.remove(following)
            following.turn.set_result(None)

    def _next(self) -> _Waiting:
        """Who comes next: of each kind the one that has waited longest."""
        interactive = [waiting for waiting in self._waiting if waiting.has_interactive()]
        bulk = [waiting for waiting in self._waiting if waiting not in interactive]
        bulks_turn = bool(bulk) and (not interactive or self._bulk_credit >= 1)
        self._bulk_credit = 0.0 if bulks_turn or not bulk else self._bulk_credit + self._bulk_share
        return bulk[0] if bulks_turn else interactive[0]
