from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread for the small arrays of tests: on a busy machine, threads mostly wait for each other."""
    with threadpool_limits(1):
        yield
