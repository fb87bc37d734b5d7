"""`imagesearch ingest` through kills, restarts and signals of real processes.

`pytest tests/e2e/test_loads.py --kills 30 --timeout 3600` kills it thirty times; a few kills are part of every run.
"""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from imagesearch_client import Client
from tests.e2e.conftest import Stack
from tests.e2e.test_restarts import restart
from tests.integration.bulk.conftest import png
from tests.relay import Relay

IMAGES = 400
STREAMS = 2
# What a load has under way at a time: three calls of sixteen images for each stream.
WINDOW = 3 * 16 * STREAMS


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of many small images, no two of them equal."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"{number:04}.png").write_bytes(png(number))
    return folder


@pytest.fixture
def relay(stack: Stack) -> Iterator[Relay]:
    """Counts what is embedded."""
    with Relay(stack.embedder) as relay:
        yield relay


def start(stack: Stack, *arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "imagesearch_client.cli", "ingest", *map(str, arguments), "--json"],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(load: "subprocess.Popen[str]", code: int = 0) -> dict[str, object]:
    output, errors = load.communicate(timeout=120)
    assert load.returncode == code, output + errors
    account: dict[str, object] = json.loads(output)
    return account


def recorded(ledger: Path) -> int:
    """The images that a ledger has as done."""
    with closing(sqlite3.connect(ledger)) as rows:
        (count,) = rows.execute("SELECT count(*) FROM items WHERE state = 'done'").fetchone()
        return int(count)


def ids(stack: Stack) -> list[str]:
    with Client(stack.search) as client:
        return [image.id for image in client.list("images", strong=True)]


def stored(stack: Stack) -> int:
    with Client(stack.search) as client:
        return client.count("images") if any(found.name == "images" for found in client.list_collections()) else 0


@pytest.mark.timeout(3600)
def test_a_load_that_is_killed_again_and_again_stores_everything_once(
    stack: Stack, many: Path, relay: Relay, pytestconfig: pytest.Config
) -> None:
    kills = pytestconfig.getoption("--kills")
    dice = random.Random(1)
    ledger = many.parent / "of.ledger"
    arguments: list[str | Path] = [many, "--embedder", relay.address, "--streams", str(STREAMS), "--ledger", ledger]
    lost = 0
    # A load takes about a second to begin; and the more kills, the fewer images between them.
    for number in range(kills):
        before = relay.embedded.total()
        load = start(stack, *arguments)
        while relay.embedded.total() == before and load.poll() is None:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.0, 8.0 / kills))
        load.kill()
        load.communicate()
        assert load.returncode in (0, -signal.SIGKILL), number
        # The embedder may be at work for it still.
        time.sleep(0.5)
        under_way = len(relay.embedded) - recorded(ledger)
        assert 0 <= under_way <= WINDOW
        lost += under_way
    finish(start(stack, *arguments))
    assert ids(stack) == sorted(path.name for path in many.iterdir())
    again = relay.embedded.total() - IMAGES
    assert set(relay.embedded.values()) <= set(range(1, kills + 2))
    assert len(relay.embedded) == IMAGES
    # No image more often than it was under way when the load was killed.
    assert again <= lost
    assert finish(start(stack, *arguments))["skipped"] == IMAGES


def test_services_that_are_restarted_in_the_middle_lose_nothing(stack: Stack, many: Path) -> None:
    load = start(stack, many)
    for process in (stack.search_process, stack.embedder_process, stack.search_process):
        time.sleep(3)
        assert load.poll() is None
        process.stop()
        restart(process)
    account = finish(load)
    assert (account["stored"], account["failed"]) == (IMAGES, 0)
    assert len(ids(stack)) == IMAGES


def test_a_search_service_that_is_killed_in_the_middle_loses_nothing(stack: Stack, many: Path) -> None:
    load = start(stack, many)
    while stored(stack) < 50:
        time.sleep(0.1)
    stack.search_process.kill()
    time.sleep(2)
    stack.search_process.start()
    account = finish(load)
    assert (account["stored"], account["failed"]) == (IMAGES, 0)
    assert len(ids(stack)) == IMAGES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_when_what_is_under_way_is_stored(
    stack: Stack, many: Path, relay: Relay, number: signal.Signals
) -> None:
    arguments: list[str | Path] = [many, "--embedder", relay.address, "--streams", str(STREAMS)]
    load = start(stack, *arguments)
    while not relay.embedded:
        time.sleep(0.05)
    load.send_signal(number)
    account = finish(load, code=130)
    assert account["stopped"] == "interrupted"
    assert 0 < int(str(account["stored"])) < IMAGES
    # All that was embedded is stored.
    assert relay.embedded.total() == account["stored"] == len(ids(stack))
    assert finish(start(stack, *arguments))["skipped"] == account["stored"]
    assert relay.embedded.total() == IMAGES


def test_a_second_signal_ends_it_now(stack: Stack, many: Path) -> None:
    with Relay(stack.embedder, refused=1.0) as relay:
        load = start(stack, many, "--embedder", relay.address)
        while not relay.refusals:
            time.sleep(0.05)
        load.send_signal(signal.SIGINT)
        time.sleep(1)
        assert load.poll() is None
        begin = time.monotonic()
        load.send_signal(signal.SIGINT)
        account = finish(load, code=130)
        assert time.monotonic() - begin < 5
    assert (account["stored"], account["failed"]) == (0, 0)
    assert finish(start(stack, many))["stored"] == IMAGES


def test_a_dry_run_decodes_and_changes_nothing(tmp_path: Path, many: Path) -> None:
    # There is no service at all.
    stack = Stack(tmp_path, "unused.db")
    (many / "text.png").write_text("no image")
    (many / "huge.png").write_bytes(png(1)[:40])
    rejects = tmp_path / "rejects.jsonl"
    account = finish(start(stack, many, "--dry-run", "--rejects", rejects), code=1)
    assert (account["stored"], account["failed"], account["dry_run"]) == (IMAGES, 2, True)
    assert sorted(json.loads(line)["id"] for line in rejects.read_text().splitlines()) == ["huge.png", "text.png"]
    assert not list(tmp_path.rglob("*.ledger"))


def test_a_dry_run_tells_what_is_left_to_do(stack: Stack, photographs: Path) -> None:
    stack.command("ingest", str(photographs), "--limit", "5")
    account = json.loads(stack.command("ingest", str(photographs), "--dry-run", "--json"))
    assert (account["skipped"], account["stored"]) == (5, 13)
    assert stored(stack) == 5


def test_without_a_terminal_progress_is_lines_of_a_log(stack: Stack, many: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "imagesearch_client.cli", "ingest", str(many)],
        env=stack.environment | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"{IMAGES} of {IMAGES} images stored in images" in done.stdout
    assert " stored, 0 failed" in done.stderr
    assert f" of {IMAGES}, " in done.stderr
    assert "\x1b" not in done.stderr


def test_a_ledger_that_cannot_be_written_is_told_before_anything_is_embedded(
    stack: Stack, many: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    load = start(stack, many, "--ledger", blocked / "of.ledger")
    _, errors = load.communicate(timeout=60)
    assert load.returncode == 3
    assert "ledger" in errors
    assert stored(stack) == 0


def test_another_process_with_the_same_ledger_is_refused(stack: Stack, many: Path) -> None:
    first = start(stack, many)
    while stored(stack) == 0:
        time.sleep(0.1)
    second = start(stack, many)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 3
    assert "in use by another process" in errors
    assert finish(first)["stored"] == IMAGES
