"""Loads that a signal interrupts."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagesearch_client import Client
from imagesearch_ingest.load import load_run
from imagesearch_ingest.load.report import LoadReport
from tests.integration.ingest.conftest import Run, ids, png
from tests.relay import Relay

IMAGES = 100
# Number of images in flight: two streams with sixteen images each.
IN_FLIGHT = 2 * 16


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"{number:04}.png").write_bytes(png(number))
    return folder


def signal_when(holds: Callable[[], object], number: signal.Signals = signal.SIGINT) -> threading.Thread:
    """Send this process a signal as soon as the condition is true."""

    def wait() -> None:
        while not holds():
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def is_consistent(report: LoadReport) -> bool:
    return report.listed == report.done


@pytest.mark.parametrize("via_search", [False, True])
def test_signal_cancels_images_that_are_not_sent(
    run: Run, client: Client, name: str, many: Path, embedder_address: str, via_search: bool
) -> None:
    with Relay(embedder_address) as relay:
        relay.pause = 0.05
        started: Callable[[], object]
        if via_search:
            # The search service uses another embedder, which is fast.
            started = lambda: bool(client.count(name))  # noqa: E731
            client.create_collection(name)
        else:
            started = lambda: relay.embedded  # noqa: E731
        thread = signal_when(started)
        report = run(many, embedder=relay.address, via_search=via_search)
        thread.join()
        at_signal = relay.embedded.total()
    assert report.stopped == "interrupted"
    assert report.interrupted
    assert is_consistent(report)
    assert 0 < report.stored < IMAGES
    assert 0 < report.unfinished <= 3 * IN_FLIGHT
    assert report.remaining == IMAGES - report.stored
    assert len(ids(client, name)) == report.stored
    if not via_search:
        # The calls in flight finished, and no other call started.
        assert at_signal == report.stored
    again = run(many)
    assert (again.stored, again.skipped, again.unfinished) == (IMAGES - report.stored, report.stored, 0)


def test_calls_that_exceed_the_grace_period_are_cancelled(
    run: Run, client: Client, name: str, many: Path, embedder_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_run, "GRACE_SECONDS", 0.5)
    with Relay(embedder_address) as relay:

        def is_stuck() -> bool:
            relay.frozen = relay.embedded.total() > 0
            return relay.frozen and client.count(name) >= 16

        thread = signal_when(is_stuck, signal.SIGTERM)
        report = run(many, embedder=relay.address, retry_seconds=60)
        thread.join()
        assert report.stopped == "interrupted"
        assert is_consistent(report)
        # Every embedded image is stored and recorded.
        assert relay.embedded.total() == report.stored == len(ids(client, name))
        relay.frozen = False
        assert report.unfinished > 0
        again = run(many, embedder=relay.address)
        assert (again.stored, again.skipped) == (IMAGES - report.stored, report.stored)
        # No image was embedded twice.
        assert relay.embedded.total() == IMAGES


def test_stopped_load_counts_unfinished_images(run: Run, many: Path, embedder_address: str) -> None:
    with Relay(embedder_address, refused=1.0) as relay:
        report = run(many, embedder=relay.address, retry_seconds=1)
    assert "every call to the embedder failed for 1 s" in report.stopped
    assert (report.listed, report.stored) == (0, 0)
    assert 0 < report.unfinished <= IMAGES
