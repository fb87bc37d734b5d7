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
    (tmp_path / "there.html").write_text("")
    return tmp_path


def usage_error(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of --labels, --by-folder and --by-attribute"),
        (["--by-folder", "--by-attribute", "x"], "exactly one of --labels"),
        (["--by-folder", "--label-column", "x"], "has no effect without --labels"),
        (["--by-attribute", "x", "--query-role", "shelf"], "need --role-column"),
        (["--by-attribute", "x", "--role-column", "role"], "needs --query-role, --target-role or both"),
        (["--by-folder", "--role-column", "role", "--query-role", "x"], "folders have no roles"),
        (["--by-folder", "--exact-only", "--ef", "9"], "leave out --exact-only"),
        (["--by-folder", "--exact-only", "--search-list", "9"], "leave out --exact-only"),
        (["--by-folder", "-o", "page.txt"], "must end in .html"),
        (["--by-folder", "-o", "there.html"], "there.html exists; name another file, or add --force to replace it"),
        (["--by-folder", "-o", "nowhere/page.html"], "the folder of nowhere/page.html does not exist"),
        (["--by-folder", "-k", "0"], "greater than or equal to 1"),
        (["--by-folder", "--where", "=x"], "is not a condition"),
        (["--labels", "gone.csv"], "'gone.csv' does not exist"),
        (["--labels", "labels.csv", "--label-column", "size"], "has no column 'size'; it has path, role, product"),
        (
            ["--labels", "labels.csv"],
            "has the columns role, product; use --label-column to name",
        ),
    ],
)
def test_evaluate_rejects_wrong_options(arguments: list[str], message: str) -> None:
    assert message in usage_error("evaluate", "-c", "photos", *arguments)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vgg16"], "exactly one of --labels, --by-folder"),
        (["--by-folder", "--label-column", "x"], "has no effect without --labels"),
        (["--by-folder", "--models", "vgg16,vgg16"], "each once"),
        (["--by-folder", "--models", "vgg16@"], "must be NAME or NAME@HOST:PORT"),
        (["--by-folder", "--models", ",vgg16"], "must be NAME or NAME@HOST:PORT"),
        (["--by-folder", "--metrics", "hamming"], "must be some of cosine,l2,ip"),
        (["--by-folder", "--metrics", "ip,ip"], "each once"),
        (["--by-folder", "-o", "page.csv"], "must end in .html"),
    ],
)
def test_compare_rejects_wrong_options(folder: Path, arguments: list[str], message: str) -> None:
    assert message in usage_error("compare", str(folder), *arguments)
