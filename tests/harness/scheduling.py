"""The order of tests, their groups, and tests that run alone.

`make test` runs several worker processes. All tests of a group run in one worker, so that they share the fixtures of
their module or folder. Long groups come first, so that the workers finish at nearly the same time.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from xdist.scheduler import LoadScopeScheduling

# Folders whose files share an expensive fixture. Every other file is a group of its own.
FOLDERS: Final = ("tests/integration/embedder/", "tests/unit/training/")
# Prefixes of the paths that run first and last. The budgets are checked at the end.
FIRST: Final = (
    # These tests compute while the next ones mostly wait for Milvus, so that they overlap well.
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
    """Distributes tests to workers by group."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Return the name of a test's group."""
    file = nodeid.partition("::")[0]
    return next((folder for folder in FOLDERS if file.startswith(folder)), file)


def position_of(nodeid: str) -> int:
    """Return the position of a test in the order; lower runs earlier."""
    if nodeid.startswith(LAST):
        return len(FIRST) + 1
    return next((number for number, begin in enumerate(FIRST) if nodeid.startswith(begin)), len(FIRST))


@contextmanager
def machine(folder: Path, *, alone: bool) -> Iterator[None]:
    """Lock the machine for a test: shared with tests of other workers, or `alone`.

    A test that waits for the exclusive lock holds the door lock, so that new tests of other workers wait behind it.
    """
    with (folder / "door.lock").open("w") as door, (folder / "machine.lock").open("w") as machine:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
