"""The search parameters that the service sends to Milvus."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import numpy as np
import pytest
from pymilvus import AsyncMilvusClient

from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_calls import MilvusCalls, Options
from search_service.adapters.milvus_search import MilvusSearch
from search_service.core.filters import Filter
from search_service.core.ports import Nearest
from search_service.core.types import (
    DEFAULT_INDEX,
    Collection,
    Consistency,
    Index,
    IndexType,
    IvfParameters,
    SearchParameters,
    View,
)

Result = TypeVar("Result")
HNSW, AUTO, DISK = DEFAULT_INDEX, Index(IndexType.AUTOINDEX), Index(IndexType.DISKANN)


class RecordingClient:
    """Return no hits, and record the search parameters."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    async def search(self, _: str, *, data: list[Any], search_params: dict[str, Any], **__: object) -> list[list[Any]]:
        self.parameters = search_params["params"]
        return [[] for _ in data]


class RecordingCalls:
    """Pass calls to a RecordingClient."""

    is_lite = False

    def __init__(self) -> None:
        self.client = RecordingClient()

    async def read(
        self, call: Callable[[AsyncMilvusClient, Options], Awaitable[Result]], _: str, __: Deadline
    ) -> Result:
        return await call(cast("AsyncMilvusClient", self.client), {})


@pytest.mark.parametrize(
    ("index", "limit", "parameters", "sent"),
    [
        (HNSW, 10, SearchParameters(), {"ef": 128}),
        (HNSW, 100, SearchParameters(), {"ef": 400}),
        (HNSW, 16_384, SearchParameters(), {"ef": 32_768}),
        (HNSW, 10, SearchParameters(ef=300), {"ef": 300}),
        # The service asks for one more hit than its caller.
        (HNSW, 11, SearchParameters(ef=10), {"ef": 11}),
        (AUTO, 10, SearchParameters(), {"ef": 128}),
        (AUTO, 10, SearchParameters(ef=16), {"ef": 16}),
        (DISK, 10, SearchParameters(), {"search_list": 128}),
        (DISK, 100, SearchParameters(), {"search_list": 400}),
        (DISK, 16_384, SearchParameters(), {"search_list": 65_535}),
        (DISK, 10, SearchParameters(search_list=200), {"search_list": 200}),
        (DISK, 11, SearchParameters(search_list=10), {"search_list": 11}),
        (Index(IndexType.IVF_FLAT, ivf=IvfParameters(64)), 10, SearchParameters(), {"nprobe": 16}),
        (Index(IndexType.FLAT), 10, SearchParameters(), {}),
    ],
    ids=str,
)
async def test_search_sends_the_parameters_of_the_index(
    index: Index, limit: int, parameters: SearchParameters, sent: dict[str, int]
) -> None:
    calls = RecordingCalls()

    async def expression(collection: Collection, condition: Filter | None, deadline: Deadline) -> str:  # noqa: ARG001
        return ""

    searches = MilvusSearch(cast("MilvusCalls", calls), expression, 1, max_exact_bytes=1)
    collection = Collection("c", 4, "f", datetime(2026, 1, 1, tzinfo=UTC), index=index)
    nearest = Nearest(limit, View.ID, Consistency.BOUNDED, parameters=parameters)
    await searches.search(collection, [np.ones(4, np.float32)], nearest, Deadline.after(10))
    assert calls.client.parameters == sent
