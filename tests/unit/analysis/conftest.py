from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small arrays: threads that wait for one another on a busy machine take far more than they give."""
    with threadpool_limits(1):
        yield
