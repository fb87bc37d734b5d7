"""What is shown of a load while it goes on."""

import time

import pytest

from grpc_kit.errors import InvalidArgumentError, UnavailableError
from imagesearch_cli.load_progress import Speed, duration_text, progress_text
from imagesearch_ingest.load.errors import LoadStoppedError
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.load.service_retries import ServiceAvailability


async def answers() -> bool:
    return True


def test_a_service_that_is_waited_for_is_shown_until_it_answers() -> None:
    report = LoadReport(expected=10, listed=3, stored=2)
    availability = ServiceAvailability("the embedder", 60, answers, report.wait_for)
    assert "waiting" not in progress_text(report, Speed())
    availability.record_failure(UnavailableError("UNAVAILABLE", "it stops"))
    assert "waiting: the embedder, up to 60 s: it stops" in progress_text(report, Speed())
    availability.record_success()
    assert "waiting" not in progress_text(report, Speed())


def test_a_fault_of_an_item_is_nothing_to_wait_for() -> None:
    report = LoadReport()
    availability = ServiceAvailability("the embedder", 0, answers, report.wait_for)
    availability.record_failure(InvalidArgumentError("IMAGE_CORRUPT", "cut off"))
    assert not report.waiting_for
    with pytest.raises(LoadStoppedError, match="every call to the embedder failed for 0 s"):
        availability.record_failure(UnavailableError("UNAVAILABLE", "it stops"))


def test_how_far_it_is_shown_in_words() -> None:
    report = LoadReport(expected=1000, listed=300, stored=250, skipped=40, bytes=5_000_000)
    report.reasons["UNREADABLE"] = 10
    speed = Speed()
    time.sleep(0.05)
    shown = progress_text(report, speed)
    assert shown.startswith("300 of 1,000, 250 stored, 10 failed, 40 skipped, ")
    assert shown.endswith(" left")
    report.stopped = "UNAVAILABLE: away"
    assert progress_text(report, speed).endswith("ending: UNAVAILABLE: away")
    report.interrupted = True
    assert progress_text(report, speed).endswith("Ctrl-C ends it now")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (61, "1:01"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
