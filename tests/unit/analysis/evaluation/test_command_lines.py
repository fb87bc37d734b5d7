"""Wrong command lines are rejected before any service is called."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagesearch_cli.app import app


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # No service listens on this port.
    monkeypatch.setenv("IMAGESEARCH_TARGET", "127.0.0.1:9")
    monkeypatch.setenv("IMAGESEARCH_EMBEDDER", "127.0.0.1:9")
    (tmp_path / "labels.csv").write_text("path,role,product\na.jpg,shelf,milk\n")
    (tmp_path / "there.json").write_text("{}")
    return tmp_path


def usage_error(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --labels FILE, --by-folder and --attribute NAME"),
        (["--by-folder", "--attribute", "x"], "one of --labels FILE"),
        (["--by-folder", "--label", "x"], "is a column of --labels"),
        (["--attribute", "x", "--queries", "shelf"], "--role-column says where these are"),
        (["--attribute", "x", "--role-column", "role"], "needs --queries ROLE, --targets ROLE or both"),
        (["--by-folder", "--role-column", "role", "--queries", "x"], "folders tell no roles"),
        (["--by-folder", "--no-index", "--ef", "9"], "which --no-index leaves out"),
        (["--by-folder", "--no-index", "--search-list", "9"], "which --no-index leaves out"),
        (["--by-folder", "--json", "figures.txt"], "should end in .json"),
        (["--by-folder", "--json", "there.json"], "there.json exists; name another file, or replace it by --force"),
        (["--by-folder", "--html", "nowhere/page.html"], "should be in a folder that exists"),
        (["--by-folder", "-k", "0"], "greater than or equal to 1"),
        (["--by-folder", "--where", "=x"], "is no condition"),
        (["--labels", "gone.csv"], "'gone.csv' does not exist"),
        (["--labels", "labels.csv", "--label", "size"], "has no column 'size'; it has path, role, product"),
        (["--labels", "labels.csv"], "has the columns role, product; use --label to name the column of the labels"),
    ],
)
def test_evaluate_rejects_wrong_options(arguments: list[str], message: str) -> None:
    assert message in usage_error("evaluate", "photos", *arguments)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vgg16"], "one of --labels FILE and --by-folder"),
        (["--by-folder", "--label", "x"], "is a column of --labels"),
        (["--by-folder", "--models", "vgg16,vgg16"], "each once"),
        (["--by-folder", "--models", "vgg16@"], "should be NAME or NAME@HOST:PORT"),
        (["--by-folder", "--models", ",vgg16"], "should be NAME or NAME@HOST:PORT"),
        (["--by-folder", "--metrics", "hamming"], "should be some of cosine,l2,ip"),
        (["--by-folder", "--metrics", "ip,ip"], "each once"),
        (["--by-folder", "--json", "figures.csv"], "should end in .json"),
    ],
)
def test_compare_rejects_wrong_options(folder: Path, arguments: list[str], message: str) -> None:
    assert message in usage_error("compare", str(folder), *arguments)
