"""The folder examples/, its lock, its page, and the command that runs it, without the tools of any language."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.languages import LANGUAGES, ROOT

PAGE = ROOT / "docs" / "guides" / "other-languages.md"
SOURCES = {"js": "node/client.js", "go": "go/client.go", "java": "java/Client.java"}


def command(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples", *arguments],
        env=os.environ | {"PATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("language", "packages"), [("node", "nodejs npm"), ("go", "protobuf-compiler golang-go")])
def test_a_language_without_its_tools_fails_and_names_the_packages(
    tmp_path: Path, language: str, packages: str
) -> None:
    done = command(language, path=str(tmp_path))
    assert done.returncode == 1
    assert f"the client in {language} needs these Debian packages: {packages}" in done.stderr
    assert "make examples-tools" in done.stderr


def test_languages_with_installed_tools_are_named(tmp_path: Path) -> None:
    for name in ("node", "npm"):
        (tmp_path / name).symlink_to("/bin/true")
    done = command("node", "java", path=str(tmp_path))
    assert done.returncode == 1
    assert "the client in java needs these Debian packages: protobuf-compiler default-jdk-headless" in done.stderr
    assert '`make examples LANGUAGES="node"` runs the other clients' in done.stderr


def test_a_language_without_a_client_is_refused() -> None:
    done = command("cobol", path=os.environ["PATH"])
    assert done.returncode == 2
    assert "no client in cobol; choose from node, go, java" in done.stderr


def test_tools_are_installed_on_debian_only(tmp_path: Path) -> None:
    done = command("--install", "node", path=str(tmp_path))
    assert done.returncode == 1
    assert "only root can install packages, and on Debian: sudo apt-get install" in done.stderr
    assert done.stderr.rstrip().endswith("nodejs npm")


def test_the_lock_has_hashes_and_no_registry() -> None:
    lock = json.loads((ROOT / "examples/node/package-lock.json").read_text())
    own, *packages = lock["packages"].items()
    assert own[1]["dependencies"] == json.loads((ROOT / "examples/node/package.json").read_text())["dependencies"]
    assert len(packages) > 10
    for name, package in packages:
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


@pytest.mark.parametrize("language", SOURCES)
def test_the_page_shows_the_code_of_the_examples(language: str) -> None:
    shown = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown
    source = (ROOT / "examples" / SOURCES[language]).read_text()
    assert [block for block in shown if unindented(block) not in unindented(source)] == []


def unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


def test_the_page_names_every_package() -> None:
    page = PAGE.read_text()
    packages = {package for language in LANGUAGES.values() for package in language.packages}
    assert {package for package in packages if f"`{package}`" not in page} == set()


@pytest.mark.parametrize("name", SOURCES.values())
def test_every_client_has_the_policy_of_the_python_client(name: str) -> None:
    source = (ROOT / "examples" / name).read_text()
    for part in ("UNAVAILABLE", "CANCELLED", "maxAttempts", "0.1s", "2s", "retryableStatusCodes"):
        assert part in source
