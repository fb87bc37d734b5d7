"""Both forms of the clients, on real services."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.photographs import write_photographs
from imagesearch_client import AsyncClient, AsyncEmbedderClient, Client, EmbedderClient, Embedding

FORMS = ["blocking", "asynchronous"]


class Calls:
    """Calls either form of a client in the same way: awaits results, and makes lists of iterators."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.client, name)

        async def call(*args: Any, **options: Any) -> Any:
            found = method(*args, **options)
            if isinstance(found, AsyncIterator):
                return [each async for each in found]
            if inspect.isawaitable(found):
                return await found
            return list(found) if isinstance(found, Iterator) else found

        return call


async def opened(form: str, blocking: Callable[[], Any], asynchronous: Callable[[], Any]) -> AsyncIterator[Calls]:
    if form == "blocking":
        with blocking() as client:
            yield Calls(client)
    else:
        async with asynchronous() as client:
            yield Calls(client)


@pytest.fixture(params=FORMS)
async def client(request: pytest.FixtureRequest, lite_address: str) -> AsyncIterator[Calls]:
    async for calls in opened(request.param, lambda: Client(lite_address), lambda: AsyncClient(lite_address)):
        yield calls


@pytest.fixture(params=FORMS)
async def embedder(request: pytest.FixtureRequest, embedder_address: str) -> AsyncIterator[Calls]:
    async for calls in opened(
        request.param, lambda: EmbedderClient(embedder_address), lambda: AsyncEmbedderClient(embedder_address)
    ):
        yield calls


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.stem: path for path in write_photographs(tmp_path_factory.mktemp("photographs"))}


def vector(*values: float) -> Embedding:
    return Embedding(values, "test")


def broken(items: Iterable[Any]) -> Iterator[Any]:
    yield from items
    raise RuntimeError("the caller's own error")
