"""No command replaces a file without --force."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagesearch_cli.app import app
from imagesearch_ingest.load.rejects_file import RejectsFile
from imagesearch_ingest.sources.items import Fault

NOBODY = ["--target", "127.0.0.1:1"]


def refused(*arguments: str | Path) -> str:
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, [*map(str, arguments), *NOBODY])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_plot_does_not_replace_a_file_without_force(tmp_path: Path) -> None:
    picture, query = tmp_path / "hits.png", tmp_path / "query.jpg"
    picture.write_text("mine")
    query.write_bytes(b"image")
    assert "add --force to replace it" in refused("plot", query, "-o", picture)
    assert picture.read_text() == "mine"


@pytest.mark.parametrize("option", ["--judged-pairs", "--decisions"])
def test_duplicates_never_replaces_its_input_files(tmp_path: Path, option: str) -> None:
    judged, link = tmp_path / "judged.csv", tmp_path / "link.csv"
    judged.write_text("mine")
    link.symlink_to(judged)
    for output in (judged, link):
        said = refused("duplicates", "-c", "shoes", option, judged, "-o", output, "--force")
        assert "is an input of this command" in said
    assert judged.read_text() == "mine"


@pytest.mark.parametrize("content", ["mine\n", '{"uri": "a.jpg"}\n', "[]\n", '"_reason"\n', "\x00"])
def test_rejects_never_replace_another_file(tmp_path: Path, content: str) -> None:
    rejects = tmp_path / "photos.jsonl"
    rejects.write_text(content)
    (tmp_path / "a").mkdir()
    assert "is not a file of rejects; name another file" in refused("ingest", tmp_path / "a", "--rejects", rejects)
    with pytest.raises(FileExistsError, match="not a file of rejects"):
        RejectsFile(rejects)
    assert rejects.read_text() == content


def test_rejects_replace_the_rejects_of_an_earlier_run(tmp_path: Path) -> None:
    rejects = tmp_path / "rejects.jsonl"
    for name in ("one", "other"):
        with RejectsFile(rejects) as file:
            file.write(Fault(name, "ROW_INVALID", "no row"), "ROW_INVALID", "no row")
        assert [f'"{name}"' in line for line in rejects.read_text().splitlines()] == [True]
    with RejectsFile(rejects):
        pass
    with RejectsFile(rejects):
        pass
    assert rejects.read_text() == ""
