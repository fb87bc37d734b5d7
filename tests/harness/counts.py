"""What a test session costs, in counts that do not depend on the speed of the machine.

Every process of the session appends to one file. `tests/test_budgets.py` adds it up at the end.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

# Names the file. It is set for worker processes too.
FILE_VARIABLE: Final = "TESTS_COUNTS"

EMBEDDERS, SEARCH_SERVICES, MILVUS_SERVERS = "embedder starts", "search service starts", "Milvus starts"
COMMANDS, IMAGES, TESTS = "command processes", "images embedded", "tests"

# What a subprocess is counted as, by the module that Python runs.
MODULES: Final = {
    "embedder_service": (EMBEDDERS,),
    "search_service": (SEARCH_SERVICES,),
    "imagesearch_cli": (COMMANDS,),
    "demo": (EMBEDDERS, SEARCH_SERVICES),
    "demo.local_stack": (EMBEDDERS, SEARCH_SERVICES),
}

_tier = "shared"


def set_tier(now: str) -> None:
    """Say for which tier this process counts from now on."""
    global _tier  # noqa: PLW0603 - a process runs one test at a time
    _tier = now


def tier() -> str:
    """Return the tier whose test runs now."""
    return _tier


def add(kind: str, number: int = 1, *, of: str = "") -> None:
    """Add to a count of a tier: `of`, or the one whose test runs now."""
    path = os.environ.get(FILE_VARIABLE)
    if path and number:
        # One write of a short line: lines of several processes do not mix.
        with Path(path).open("a") as file:
            file.write(f"{of or _tier}\t{kind}\t{number}\n")


def watch_subprocesses() -> None:
    """Count the services and commands that this process starts, whoever starts them."""
    sys.addaudithook(_on_event)


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        for kind in kinds_of([os.fsdecode(word) for word in arguments[1]]):
            add(kind)


def kinds_of(command: Sequence[str]) -> Sequence[str]:
    """Return what a command line is counted as; nothing for most."""
    if "-alias" in command and "standalone" in command:
        return (MILVUS_SERVERS,)
    for option, module in pairwise(command):
        if option == "-m" and module in MODULES:
            return MODULES[module]
    return (COMMANDS,) if Path(command[0]).name == "imagesearch" else ()


def totals() -> dict[str, Counter[str]]:
    """Return the counts so far, by tier and kind."""
    found: dict[str, Counter[str]] = {}
    for line in Path(os.environ[FILE_VARIABLE]).read_text().splitlines():
        name, kind, number = line.split("\t")
        found.setdefault(name, Counter())[kind] += int(number)
    return found
