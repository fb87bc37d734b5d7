"""What more than one tier needs: the real servers, each started once."""

from collections.abc import Iterator

import pytest

from tests.milvus_server import MilvusProcess


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusProcess]:
    """A Milvus server, for every test that does not kill it."""
    with MilvusProcess(tmp_path_factory.mktemp("milvus")) as server:
        yield server
