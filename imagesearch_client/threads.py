"""Iterate over items and call blocking functions, in the asynchronous and in the blocking client."""

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
    """Yield the items. Read an iterator in a thread, because its next item may block, for example to read a file."""
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
    """Return an iterator over the items: the blocking form of `each_async`."""
    return iter(items)


async def in_thread(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Call a blocking function in a thread, and return its result."""
    return await asyncio.to_thread(function, *args, **kwargs)


def directly(function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
    """Call a function and return its result: the blocking form of `in_thread`."""
    return function(*args, **kwargs)
