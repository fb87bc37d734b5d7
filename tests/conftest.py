"""What more than one tier needs: the real servers, each started once."""

from collections.abc import Iterator

import pytest

from tests.milvus_server import MilvusProcess


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="how often a process is killed by the tests of crashes")


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusProcess]:
    """A Milvus server, for every test that does not kill it."""
    with MilvusProcess(tmp_path_factory.mktemp("milvus")) as server:
        yield server
