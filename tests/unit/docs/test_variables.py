"""Pages, Dockerfiles and manifests name only environment variables that a program reads."""

import re
from pathlib import Path

import pytest

from embedder_service.settings import EmbedderSettings
from grpc_kit.environment import is_service_link
from grpc_kit.server.settings import variables
from imagesearch_cli import environment
from search_service.settings import SearchSettings

ROOT = Path(__file__).parents[3]
PAGES = [
    path.relative_to(ROOT)
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "deploy/**/*.md",
        "deploy/**/*.yaml",
        "deploy/**/*.env",
        "deploy/**/*.Dockerfile",
    )
    for path in sorted(ROOT.glob(pattern))
]
KNOWN = variables(EmbedderSettings) | variables(SearchSettings) | environment.VARIABLES | environment.OF_COMPOSE
REASONS = set(re.findall(r"^\| `([A-Z_]+)`", (ROOT / "docs" / "reference" / "api.md").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_variable_is_known(page: Path) -> None:
    named = set(re.findall(r"\b(?:EMBEDDER|SEARCH|IMAGESEARCH)_[A-Z0-9_]*[A-Z0-9]\b", (ROOT / page).read_text()))
    others = named - KNOWN - REASONS
    assert {name for name in others if not is_service_link(name, "10.96.0.12")} <= {"EMBEDDER_PORT", "SEARCH_PORT"}
