"""Search services for what needs all of a collection, and the command."""

from collections.abc import Iterator

import pytest

from imagesearch_client import Client
from tests.harness.command import Command


@pytest.fixture(scope="session", params=["lite", "server"])
def search_address(request: pytest.FixtureRequest) -> str:
    """The shared search service on each backend."""
    address: str = request.getfixturevalue(f"{request.param}_address")
    return address


@pytest.fixture
def client(lite_address: str) -> Iterator[Client]:
    with Client(lite_address, timeout=60) as client:
        yield client


@pytest.fixture
def command(command: Command) -> Command:
    """Runs `imagesearch`; returns what it printed, standard error too."""
    return Command(command.environment, with_errors=True)
