"""What is shown of a load while it goes on."""

import time

import pytest

from grpc_kit.errors import InvalidArgumentError, UnavailableError
from imagesearch_ingest.load.progress import Speed, described, duration
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.load.service_retries import LoadStoppedError, ServiceRetries


async def answers() -> bool:
    return True


def test_a_service_that_is_waited_for_is_shown_until_it_answers() -> None:
    account = LoadReport(expected=10, met=3, stored=2)
    patience = ServiceRetries("the embedder", 60, answers, account.wait_for)
    assert "waiting" not in described(account, Speed())
    patience.check(UnavailableError("UNAVAILABLE", "it stops"))
    assert "waiting: the embedder, up to 60 s: it stops" in described(account, Speed())
    patience.heard()
    assert "waiting" not in described(account, Speed())


def test_a_fault_of_an_item_is_nothing_to_wait_for() -> None:
    account = LoadReport()
    patience = ServiceRetries("the embedder", 0, answers, account.wait_for)
    patience.check(InvalidArgumentError("IMAGE_CORRUPT", "cut off"))
    assert not account.waiting_for
    with pytest.raises(LoadStoppedError, match="did nothing for 0 s"):
        patience.check(UnavailableError("UNAVAILABLE", "it stops"))


def test_how_far_it_is_shown_in_words() -> None:
    account = LoadReport(expected=1000, met=300, stored=250, skipped=40, bytes=5_000_000)
    account.reasons["UNREADABLE"] = 10
    speed = Speed()
    time.sleep(0.05)
    shown = described(account, speed)
    assert shown.startswith("300 of 1,000, 250 stored, 10 failed, 40 skipped, ")
    assert shown.endswith(" left")
    account.stopped = "UNAVAILABLE: away"
    assert described(account, speed).endswith("ending: UNAVAILABLE: away")
    account.interrupted = True
    assert described(account, speed).endswith("Ctrl-C ends it now")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (61, "1:01"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
