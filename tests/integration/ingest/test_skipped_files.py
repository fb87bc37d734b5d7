"""Files that a source skips: they are counted in every run, do not fail, and are remarks in the file of rejects."""

import json
from pathlib import Path

import pytest

from imagesearch_client import Client
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.source_options import SourceOptions
from tests.harness.command import Command
from tests.integration.ingest.conftest import Run, ids, png

NO_ITEMS = {"a.psd": "", "below/b.svg": "", "c.svg": "", "._a.png": "", "below/@eaDir/x.png": "", "notes.txt": "a"}


@pytest.fixture
def mixed(folder: Path) -> Path:
    """Six images, three unsupported images, two system files and a text."""
    for name, text in NO_ITEMS.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def passed(report: LoadReport) -> tuple[int, dict[str, int], int, int]:
    return report.unsupported, dict(report.unsupported_suffixes), report.system_files, report.other_files


def files(report: LoadReport) -> int:
    outcomes = report.stored + report.updated + report.skipped + report.duplicates + report.failed
    assert report.listed == outcomes
    return outcomes + report.unsupported + report.system_files + report.other_files


def test_report_is_complete_in_every_run(run: Run, mixed: Path) -> None:
    expected = (3, {".psd": 1, ".svg": 2}, 2, 1)
    for options in ({}, {}, {"restart": True}, {"compare_content": True}, {"prune": True}):
        report = run(mixed, **options)
        assert (report.failed, report.stopped) == (0, "")
        assert passed(report) == expected, options
        assert files(report) == 12
    (mixed / "copy.png").write_bytes((mixed / "a.png").read_bytes())
    (mixed / "broken.png").write_bytes(b"x")
    report = run(mixed)
    assert (report.listed, report.failed, passed(report)) == (8, 1, expected)


def test_second_pass_counts_no_file_again(run: Run, mixed: Path) -> None:
    (mixed / "a2.png").write_bytes((mixed / "a.png").read_bytes())
    run(mixed, dedup=True)
    (mixed / "a.png").unlink()
    report = run(mixed, dedup=True, prune=True)
    assert report.removed == 1
    assert passed(report) == (3, {".psd": 1, ".svg": 2}, 2, 1)
    assert files(report) == 12


def test_skipped_files_before_the_limit_are_counted(run: Run, mixed: Path) -> None:
    accounts = [run(mixed, limit=2) for _ in range(4)]
    assert [report.stored for report in accounts] == [2, 2, 2, 0]
    for report in accounts:
        files(report)
    assert passed(accounts[-1]) == (3, {".psd": 1, ".svg": 2}, 2, 1)


def test_image_that_became_unsupported_is_pruned(run: Run, client: Client, name: str, mixed: Path) -> None:
    run(mixed)
    (mixed / "a.png").rename(mixed / "a2.psd")
    report = run(mixed, prune=True)
    assert (report.removed, report.unsupported, report.stopped) == (1, 4, "")
    assert "a.png" not in ids(client, name)


def test_skipped_file_that_exists_is_not_pruned(run: Run, client: Client, name: str, mixed: Path) -> None:
    (mixed / "IMG_1").write_bytes(png(77))
    (mixed / "b.dat").write_bytes(png(78))
    run(mixed, source_options=SourceOptions(any_name=True))
    report = run(mixed, prune=True, prune_above=1.0)
    assert (report.removed, report.missing, report.stopped) == (0, [], "")
    (mixed / "b.dat").unlink()
    report = run(mixed, prune=True, prune_above=1.0)
    assert (report.removed, report.stopped) == (1, "")
    assert "IMG_1" in ids(client, name)
    assert "b.dat" not in ids(client, name)


def test_rejects_of_unsupported_files_are_remarks(run: Run, mixed: Path, tmp_path: Path) -> None:
    (mixed / "broken.png").write_bytes(b"x")
    rejects = tmp_path / "bad.jsonl"
    run(mixed, rejects=rejects)
    lines = [json.loads(line) for line in rejects.read_text().splitlines()]
    remarks = {line["_where"]: line for line in lines if "uri" not in line}
    assert set(remarks) == {str(mixed / name) for name in ("a.psd", "c.svg", "below/b.svg")}
    assert {line["_reason"] for line in remarks.values()} == {"FORMAT_UNSUPPORTED"}
    report = run(rejects, retry_failed=True)
    assert (report.listed, report.failed, passed(report)) == (1, 1, (0, {}, 0, 0))


def test_files_of_any_name_keep_their_names(run: Run, client: Client, name: str, mixed: Path) -> None:
    (mixed / "IMG_1").write_bytes(png(77))
    assert run(mixed).unsupported_suffixes[""] == 1
    report = run(mixed, source_options=SourceOptions(any_name=True))
    assert (report.stored, report.skipped) == (1, 6)
    assert "IMG_1" in ids(client, name)
    assert files(report) == 13


def test_rejects_list_the_files_of_a_folder_without_images(command: Command, tmp_path: Path) -> None:
    folder, rejects = tmp_path / "none", tmp_path / "bad.jsonl"
    folder.mkdir()
    (folder / "a.psd").write_text("")
    (folder / "notes.txt").write_text("")
    rejects.write_text('{"uri": "/of/a/run/before.png", "_reason": "UNREADABLE"}\n')
    command("ingest", folder, "--rejects", rejects, code=1)
    (line,) = rejects.read_text().splitlines()
    assert json.loads(line)["_where"] == str(folder / "a.psd")
    assert json.loads(line)["_reason"] == "FORMAT_UNSUPPORTED"
