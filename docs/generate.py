"""Write the pages of docs/ that come from the code: `python -m docs.generate [--check]`.

- docs/reference/settings.md: the settings of both services.
- docs/reference/cli.md: the commands and options of `imagesearch`.
- docs/operate/scale.md: its tables, from docs/sizing.py.
- docs/adr/README.md: the titles of the decisions.
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
SCALE = FOLDER / "operate" / "scale.md"
MARKED = re.compile(r"(<!-- table: ([a-z ]+) -->)\n.*?(<!-- end -->)", re.DOTALL)
INTRODUCTION = """# Settings

Each service reads its settings from environment variables, checks them when it starts, and logs them once. `python -m
embedder_service --help` and `python -m search_service --help` print the same tables. (`make docs` writes this page.)

An empty variable counts as unset. A service does not start in these cases:

- A variable begins with `EMBEDDER_` or `SEARCH_` and is not a setting. The message names the nearest setting.
- A value is wrong.
- Two settings contradict each other.

The service reports all problems at once. It accepts the variables that Kubernetes sets for Services, such as
`EMBEDDER_SERVICE_HOST=10.96.0.12`. The `imagesearch` command checks variables that begin with `IMAGESEARCH_` in the
same way.
"""


def settings_page() -> str:
    """Return the page of settings."""
    parts = [INTRODUCTION]
    for title, settings in (("Embedder", EmbedderSettings), ("Search service", SearchSettings)):
        parts.append(f"## {title}\n\n{as_markdown(settings)}")
    # Brackets are not links here.
    return "\n".join(parts).replace("[", "\\[")


def scale_page() -> str:
    """Return the page on scaling with new tables; the text between them stays."""

    def replace_table(mark: re.Match[str]) -> str:
        return f"{mark[1]}\n{TABLES[mark[2]]()}\n{mark[3]}"

    return MARKED.sub(replace_table, SCALE.read_text())


def decisions_page() -> str:
    """Return the page that lists the titles of all decisions."""
    pages = sorted(page for page in DECISIONS.parent.glob("*.md") if page != DECISIONS)
    titles = (page.read_text().partition("\n")[0].lstrip("# 0123456789.") for page in pages)
    listed = (f"- {page.name[:4]} [{title}]({page.name})\n" for page, title in zip(pages, titles, strict=True))
    return f"# Decisions\n\nEach page describes one decision. (`make docs` writes this list.)\n\n{''.join(listed)}"


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is out of date")
    check = parser.parse_args().check
    pages = {SETTINGS: settings_page(), CLI: cli_page(), SCALE: scale_page(), DECISIONS: decisions_page()}
    for page, content in pages.items():
        if not check:
            page.write_text(content)
        elif not page.exists() or page.read_text() != content:
            sys.exit(f"{page.name} is out of date: run `make docs`")


if __name__ == "__main__":
    main()
