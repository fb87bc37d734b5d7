"""Fixtures: the search service on Milvus Lite and on a Milvus server, with a real embedder."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from demo.photographs import write_photographs
from grpc_kit.channel import channel_options
from grpc_kit.status import DETAILS_KEY
from tests.harness.processes import SearchProcess

StartSearch: TypeAlias = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def start_search(tmp_path_factory: pytest.TempPathFactory) -> StartSearch:
    """Start a search service and return its address; keywords are its settings."""

    @contextmanager
    def start(**settings: str) -> Iterator[str]:
        with SearchProcess(tmp_path_factory.mktemp("search") / "log", **settings) as process:
            yield process.address

    return start


@pytest.fixture(scope="session", params=["lite", "server"])
def search_address(request: pytest.FixtureRequest) -> str:
    """Return the address of the shared search service on each backend."""
    address: str = request.getfixturevalue(f"{request.param}_address")
    return address


@pytest.fixture
def channel(search_address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(search_address, options=channel_options(48 * 1024 * 1024)) as channel:
        yield channel


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = write_photographs(tmp_path_factory.mktemp("photographs"))
    return {path.stem: path for path in paths}


class Refusal:
    """The error of a failed call."""

    def __init__(self, error: grpc.RpcError) -> None:
        assert isinstance(error, grpc.Call)
        self.code = error.code()
        self.message = error.details() or ""
        details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
        self.status = status_pb2.Status.FromString(details) if isinstance(details, bytes) else status_pb2.Status()
        self.info = error_details_pb2.ErrorInfo()
        self.bad_request: Any = error_details_pb2.BadRequest()
        self.retry = error_details_pb2.RetryInfo()
        for detail in self.status.details:
            detail.Unpack(self.info)
            detail.Unpack(self.bad_request)
            detail.Unpack(self.retry)

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self.bad_request.field_violations]


@pytest.fixture(scope="session")
def refusal() -> Callable[[Callable[[], object]], Refusal]:
    """Return a function that makes a call which must fail, and returns its error."""

    def refused(call: Callable[[], object]) -> Refusal:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        return Refusal(caught.value)

    return refused
