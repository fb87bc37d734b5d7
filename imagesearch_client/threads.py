"""Iterate over the caller's items, and run the caller's code, in the asynchronous and in the blocking client."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Iterator
from typing import ParamSpec, TypeAlias, TypeVar, cast

Item = TypeVar("Item")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

AsyncItems: TypeAlias = AsyncIterable[Item] | Iterable[Item]
"""What the asynchronous clients accept as items."""
Items: TypeAlias = Iterable[Item]
"""What the blocking clients accept as items."""


async def each_async(items: AsyncItems[Item]) -> AsyncIterator[Item]:
    """Yield the items. An iterator is read in a thread, because it may block: it may read files, for example."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    elif isinstance(items, Collection):
        for item in items:
            yield item
    else:
        iterator, end = iter(items), object()
        while (found := await asyncio.to_thread(next, iterator, end)) is not end:
            yield cast("Item", found)


def each(items: Iterable[Item]) -> Iterator[Item]:
    """Return an iterator over the items."""
    return iter(items)


async def in_thread(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Return the result of a function that may block, without blocking the event loop."""
    return await asyncio.to_thread(function, *args, **kwargs)


def directly(function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    """Return the result of a function: the blocking form of `in_thread`."""
    return function(*args, **kwargs)
