"""Keeps changes of the same image apart, within this process: what reads an image to write it must not undo others."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager


class ImageLocks:
    """Locks on images. Nobody holds some while it waits for others, so that no two wait for each other."""

    def __init__(self) -> None:
        """Nothing is locked."""
        self._held: dict[tuple[str, str], asyncio.Future[None]] = {}

    @asynccontextmanager
    async def hold(self, collection: str, ids: Iterable[str]) -> AsyncIterator[None]:
        """Holds images of a collection, once nobody else holds any of them."""
        keys = {(collection, image_id) for image_id in ids}
        while busy := [self._held[key] for key in keys if key in self._held]:
            await asyncio.wait(busy, return_when=asyncio.ALL_COMPLETED)
        released = asyncio.get_running_loop().create_future()
        self._held.update(dict.fromkeys(keys, released))
        try:
            yield
        finally:
            for key in keys:
                del self._held[key]
            released.set_result(None)
