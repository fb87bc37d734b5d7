"""Links between the pages of the repository."""

import re
from pathlib import Path

import pytest

from docs.markdown import anchors, links, replace_links

ROOT = Path(__file__).parents[3]
FOLDERS = ("*.md", "docs/**/*.md", "deploy/**/*.md", "protos/**/*.md", "benchmarks/*.md", "examples/*.md")
PAGES = [path.relative_to(ROOT) for pattern in FOLDERS for path in sorted(ROOT.glob(pattern))]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    path = ROOT / page
    for link in links(path.read_text()):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target.read_text()), link


PAGE = """# One

[a](one.md#x) and [`code`](two.md), `[no](three.md)`, [web](https://example.org)

```sh
# no heading
[no](four.md)
```

## One
"""


def test_links_in_code_and_to_other_hosts_are_left_out() -> None:
    assert links(PAGE) == ["one.md#x", "two.md"]
    replaced = replace_links(PAGE, lambda target: f"../{target}")
    assert links(replaced) == ["../one.md#x", "../two.md"]
    assert replaced.replace("../", "") == PAGE


def test_headings_of_one_text_have_different_anchors() -> None:
    assert anchors(PAGE) == {"one", "one-1"}


def test_every_folder_and_module_of_the_architecture_exists() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    paths = re.findall(r"`((?:embedder_|search_|imagesearch_|grpc_)\w+/[\w/.]*|\w+/)`", page)
    assert len(paths) > 20
    inside = (
        "google/",
        "grpc/",
        "gen/",
        "imagesearch/",
        "server/",
        "sources/",
        "vector_files/",
        "load/",
        "evaluation/",
    )
    assert [path for path in paths if not (ROOT / path).exists() and path not in {*inside, "checks/"}] == []
