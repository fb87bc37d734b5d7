"""Writes what is made of code into the pages of docs/: `python -m docs.generate [--check]`.

docs/reference/settings.md is made of the services' settings, the tables of docs/operate/scale.md of docs/sizing.py.
"""

import argparse
import re
import sys
from pathlib import Path

from docs.cli_page import cli_page
from docs.sizing import TABLES
from embedder_service.settings import EmbedderSettings
from grpc_kit.server.settings import as_markdown
from search_service.settings import SearchSettings

FOLDER = Path(__file__).parent
DECISIONS = FOLDER / "adr" / "README.md"
SETTINGS, CLI = FOLDER / "reference" / "settings.md", FOLDER / "reference" / "cli.md"
SCALING = FOLDER / "operate" / "scale.md"
MARKED = re.compile(r"(<!-- table: ([a-z ]+) -->)\n.*?(<!-- end -->)", re.DOTALL)
INTRODUCTION = """# Configuration

Each service reads environment variables, checks them when it starts, and logs them once. `python -m embedder_service
--help` and `python -m search_service --help` print the same. (This page is written by `make docs`.)

An empty variable counts as unset. A service does not start if a variable begins with `EMBEDDER_` or `SEARCH_` and is no
setting, if a value is wrong, or if settings contradict each other. It lists all problems at once, and names the setting
nearest to an unknown variable. It accepts the variables that Kubernetes sets for Services, such as
`EMBEDDER_SERVICE_HOST=10.96.0.12`. The `imagesearch` command checks variables that begin with `IMAGESEARCH_` in the
same way.
"""


def configuration() -> str:
    """The page of settings as it should be."""
    parts = [INTRODUCTION]
    for title, settings in (("Embedder", EmbedderSettings), ("Search service", SearchSettings)):
        parts.append(f"## {title}\n\n{as_markdown(settings)}")
    # A bracket is not the beginning of a link here.
    return "\n".join(parts).replace("[", "\\[")


def scaling() -> str:
    """The page on scaling with its tables as they should be; the text between them is written by hand."""

    def made(mark: re.Match[str]) -> str:
        return f"{mark[1]}\n{TABLES[mark[2]]()}\n{mark[3]}"

    return MARKED.sub(made, SCALING.read_text())


def decisions() -> str:
    """Return the list of decisions, with the title of each."""
    pages = sorted(page for page in DECISIONS.parent.glob("*.md") if page != DECISIONS)
    titles = (page.read_text().partition("\n")[0].lstrip("# 0123456789.") for page in pages)
    listed = (f"- {page.name[:4]} [{title}]({page.name})\n" for page, title in zip(pages, titles, strict=True))
    return "# Decisions\n\nEach page has a decision, its reasons and its consequences.\n\n" + "".join(listed)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page is out of date")
    check = parser.parse_args().check
    pages = {SETTINGS: configuration(), CLI: cli_page(), SCALING: scaling(), DECISIONS: decisions()}
    for page, content in pages.items():
        if not check:
            page.write_text(content)
        elif not page.exists() or page.read_text() != content:
            sys.exit(f"{page.name} is out of date: run `make docs`")


if __name__ == "__main__":
    main()
