"""Writes docs/configuration.md from the services' settings: `python -m docs.generate [--check]`."""

import argparse
import sys
from pathlib import Path

from embedder_service.settings import EmbedderSettings
from grpc_kit.settings import as_markdown
from search_service.settings import SearchSettings

PAGE = Path(__file__).parent / "configuration.md"
INTRODUCTION = """# Configuration

Each service reads environment variables, checks them when it starts, and logs them once. `python -m embedder_service
--help` and `python -m search_service --help` print the same. (This page is written by `make docs`.)
"""


def page() -> str:
    """The page as it should be."""
    parts = [INTRODUCTION]
    for title, settings in (("Embedder", EmbedderSettings), ("Search service", SearchSettings)):
        parts.append(f"## {title}\n\n{as_markdown(settings)}")
    return "\n".join(parts)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit(f"{PAGE.name} does not fit the settings: run `make docs`")


if __name__ == "__main__":
    main()
