"""Counts the costs of a test session, independent of the speed of the machine.

Every process of the session appends to one file. `tests/test_budgets.py` sums it up at the end.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

# Variable with the path of the file. Worker processes inherit it.
FILE_VARIABLE: Final = "TESTS_COUNTS"

EMBEDDERS, SEARCH_SERVICES, MILVUS_SERVERS = "embedder starts", "search service starts", "Milvus starts"
COMMANDS, IMAGES, TESTS = "command processes", "images embedded", "tests"

# Kinds of a subprocess by the module that Python runs.
MODULES: Final = {
    "embedder_service": (EMBEDDERS,),
    "search_service": (SEARCH_SERVICES,),
    "imagesearch_cli": (COMMANDS,),
    "demo": (EMBEDDERS, SEARCH_SERVICES),
    "demo.local_stack": (EMBEDDERS, SEARCH_SERVICES),
}

_tier = "shared"


def set_tier(now: str) -> None:
    """Set the tier for which this process counts from now on."""
    global _tier  # noqa: PLW0603 - a process runs one test at a time
    _tier = now


def tier() -> str:
    """Return the tier of the current test."""
    return _tier


def add(kind: str, number: int = 1, *, of: str = "") -> None:
    """Add to a count of the tier `of`; by default the tier of the current test."""
    path = os.environ.get(FILE_VARIABLE)
    if path and number:
        # A short line is written atomically, so that lines of several processes do not mix.
        with Path(path).open("a") as file:
            file.write(f"{of or _tier}\t{kind}\t{number}\n")


def watch_subprocesses() -> None:
    """Count all services and commands that this process starts."""
    sys.addaudithook(_on_event)


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        for kind in kinds_of([os.fsdecode(word) for word in arguments[1]]):
            add(kind)


def kinds_of(command: Sequence[str]) -> Sequence[str]:
    """Return the kinds that a command line counts as; empty for most."""
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
