"""The progress of commands and loads, as text."""

import time

import pytest

from grpc_kit.errors import InvalidArgumentError, UnavailableError
from imagesearch_cli.progress import Counter, LoadCounts, duration_text, show_progress
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.load.service_retries import ServiceAvailability


async def answers() -> bool:
    return True


def test_a_load_shows_the_service_that_it_waits_for() -> None:
    report = LoadReport(expected=10, listed=3, stored=2)
    availability = ServiceAvailability("the embedder", 60, answers, report.wait_for)
    assert "waiting" not in LoadCounts(report).describe()
    availability.record_failure(UnavailableError("UNAVAILABLE", "it stops"))
    assert "waiting: the embedder, up to 60 s: it stops" in LoadCounts(report).describe()
    availability.record_success()
    assert "waiting" not in LoadCounts(report).describe()


def test_a_load_does_not_wait_because_of_a_corrupt_image() -> None:
    report = LoadReport()
    availability = ServiceAvailability("the embedder", 0, answers, report.wait_for)
    availability.record_failure(InvalidArgumentError("IMAGE_CORRUPT", "cut off"))
    assert not report.waiting_for
    with pytest.raises(LoadStoppedError, match="every call to the embedder failed for 0 s"):
        availability.record_failure(UnavailableError("UNAVAILABLE", "it stops"))


def test_a_load_shows_counts_rates_and_the_time_left() -> None:
    report = LoadReport(expected=1000, listed=300, stored=250, skipped=40, bytes=5_000_000)
    report.reasons["UNREADABLE"] = 10
    counts = LoadCounts(report)
    time.sleep(0.05)
    shown = counts.describe()
    assert shown.startswith("300 of 1,000, 250 stored, 10 failed, 40 skipped, ")
    assert shown.endswith(" left")
    report.stopped = "UNAVAILABLE: away"
    assert counts.describe().endswith("ending: UNAVAILABLE: away")
    report.interrupted = True
    assert counts.describe().endswith("Ctrl-C ends it now")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (61, "1:01"), (3723, "1:02:03")])
def test_durations_have_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_command_shows_counts_a_rate_and_the_time_left() -> None:
    counter = Counter()
    assert counter.describe() == ""
    counter.start(2000)
    assert counter.describe() == "0 of 2,000"
    time.sleep(0.05)
    counter.reach(1500)
    counter.step(failed=3)
    shown = counter.describe()
    assert shown.startswith("1,501 of 2,000, 3 failed, ")
    assert shown.endswith("0 s left")


def test_without_a_terminal_progress_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("imagesearch_cli.progress.LINE_SECONDS", 0.02)
    with show_progress(10) as counter:
        counter.reach(4)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(" 4 of 10" in line for line in lines)
