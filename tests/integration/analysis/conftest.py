"""Search services on both backends, and the command."""

from collections.abc import Iterator

import pytest

from imagesearch_client import Client
from tests.harness.command import Command


@pytest.fixture(scope="session", params=["lite", "server"])
def search_address(request: pytest.FixtureRequest) -> str:
    """Return the address of the shared search service on each backend."""
    address: str = request.getfixturevalue(f"{request.param}_address")
    return address


@pytest.fixture
def client(lite_address: str) -> Iterator[Client]:
    with Client(lite_address, timeout=60) as client:
        yield client


@pytest.fixture
def command(command: Command) -> Command:
    """Return a runner of `imagesearch` that returns standard output and standard error."""
    return Command(command.environment, with_errors=True)
