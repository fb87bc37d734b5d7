"""In which order tests run, which of them run in one process, and which run alone.

`make test` runs several worker processes. All tests of a group run in the same worker, one after the other, so that
they share the fixtures of their module or folder. Long groups come first: the workers end at nearly the same time.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from xdist.scheduler import LoadScopeScheduling

# Folders whose files share an expensive fixture. The tests of every other file are a group of their own.
FOLDERS: Final = ("tests/integration/embedder/", "tests/unit/training/")
# What runs first, and last: beginnings of paths. The budgets are checked when all else has run.
FIRST: Final = (
    # It computes, and those that come next mostly wait for Milvus: they fill each other's gaps.
    "tests/integration/embedder/",
    "tests/contract/",
    "tests/integration/search/",
    "tests/e2e/",
    "tests/integration/",
    "tests/install/",
    "tests/unit/training/",
)
LAST: Final = "tests/test_budgets"


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out tests to workers by group."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Return the name of a test's group."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in FOLDERS if file.startswith(folder)), file)


def position_of(nodeid: str) -> int:
    """Return when a test runs: the lower comes first."""
    if nodeid.startswith(LAST):
        return len(FIRST) + 1
    return next((number for number, begin in enumerate(FIRST) if nodeid.startswith(begin)), len(FIRST))


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold the machine: together with the test of another worker, or `alone`.

    Whoever wants it alone holds the door meanwhile, so that the next tests of the others wait behind it.
    """
    with (folder / "door.lock").open("w") as door, (folder / "machine.lock").open("w") as machine:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
