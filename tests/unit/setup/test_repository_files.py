"""The files that tools and hosts of the repository read: hooks, workflows, issue forms, versions."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE))
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: str(hook["id"]))
def test_hook_runs_make_check_or_a_part_of_it(hook: dict[str, Any]) -> None:
    recipe = re.findall(r"^\t\$\(BIN\)/(.*)$", MAKEFILE.partition("\ncheck: ")[2].partition("\n\n")[0], re.MULTILINE)
    assert hook["language"] == "system"
    assert hook["entry"] in {"make check", *(f".venv/bin/{command}" for command in recipe)}


def test_programs_of_hooks_are_installed() -> None:
    programs = {hook["entry"].split()[0] for hook in HOOKS} - {"make"}
    assert programs
    assert all((ROOT / program).exists() for program in programs)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_runs_only_make_targets_that_exist(path: Path) -> None:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert commands
        for command in commands:
            targets = [command.removeprefix("make ")]
            if "matrix.target" in command:
                targets = job["strategy"]["matrix"]["target"]
            assert set(targets) <= TARGETS


@pytest.mark.parametrize("page", ["RELEASING.md", "CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md"])
def test_page_names_only_make_targets_that_exist(page: str) -> None:
    commands = re.findall(r"(?:`|\$ )make ([a-z -]+)", (ROOT / page).read_text())
    assert {target for command in commands for target in command.split()} <= TARGETS


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_form_has_the_parts_that_the_host_requires(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_image_tags_are_the_version_of_the_project() -> None:
    text = "".join(
        path.read_text()
        for pattern in ("deploy/k8s/**/*.yaml", "deploy/docker/*", "deploy/*.*", "docs/operate/*.md")
        for path in sorted(ROOT.glob(pattern))
        if path.is_file()
    )
    tags = re.findall(r"imagesearch/(?:embedder|search|client):(?:\$\{IMAGESEARCH_VERSION:-)?([0-9.]+)", text)
    tags += re.findall(r"newTag: (\S+)", text) + re.findall(r"ARG VERSION=(\S+)", text)
    tags += re.findall(r"VERSION: \$\{IMAGESEARCH_VERSION:-(\S+)\}", text) + re.findall(r"\?ref=v(\S+)", text)
    assert len(tags) > 20
    assert set(tags) == {VERSION}
