"""`imagesearch ingest` through kills, restarts and signals of real processes.

`pytest tests/e2e/test_loads.py -m soak --kills 30 --timeout 3600` kills it thirty times.
"""

import json
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from demo.local_stack import free_port
from imagesearch_cli import progress
from imagesearch_client import Client
from tests.e2e.conftest import ONCE_AND_OFTEN, Stack
from tests.e2e.test_restarts import eventually, restart
from tests.harness.command import Command
from tests.integration.ingest.conftest import check_stored, image_with_regions, png, write_images
from tests.relay import Relay

IMAGES = 160
STREAMS = 2
# The images that a load has in flight: three calls of sixteen for each stream.
WINDOW = 3 * 16 * STREAMS


def make_images(folder: Path, count: int = IMAGES) -> Path:
    """A folder of small images, no two of them equal."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.png").write_bytes(png(number))
    return folder


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return make_images(tmp_path / "many")


@pytest.fixture
def relay(embedder_address: str) -> Iterator[Relay]:
    """Counts what is embedded."""
    with Relay(embedder_address) as relay:
        yield relay


def ingest(*arguments: str | Path) -> list[str | Path]:
    return ["ingest", *arguments, "--json"]


def finish(load: "subprocess.Popen[str]", code: int = 0) -> dict[str, object]:
    output, errors = load.communicate(timeout=120)
    assert load.returncode == code, output + errors
    account: dict[str, object] = json.loads(output)
    return account


def account_of(printed: str) -> dict[str, object]:
    account: dict[str, object] = json.loads(printed.splitlines()[0])
    return account


def recorded(ledger: Path) -> int:
    """The images that a ledger has as done."""
    with closing(sqlite3.connect(ledger)) as rows:
        (count,) = rows.execute("SELECT count(*) FROM items WHERE state = 'done'").fetchone()
        return int(count)


def ids(address: str, name: str) -> list[str]:
    with Client(address) as client:
        return [image.id for image in client.list(name, strong=True)]


def stored(address: str, name: str) -> int:
    with Client(address) as client:
        return client.count(name) if any(found.name == name for found in client.list_collections()) else 0


def wait_for(holds: Callable[[], object]) -> None:
    """Returns as soon as it holds."""
    eventually(lambda: bool(holds()), pause=0.01)


@ONCE_AND_OFTEN
@pytest.mark.timeout(3600)
def test_a_load_that_is_killed_again_and_again_stores_everything_once(
    command: Command, lite_address: str, name: str, relay: Relay, tmp_path: Path, kills: int
) -> None:
    dice, count = random.Random(1), IMAGES if kills == 1 else 400
    many, ledger = make_images(tmp_path / "many", count), tmp_path / "of.ledger"
    arguments = ingest(many, "--embedder", relay.address, "--parallel-calls", str(STREAMS), "--ledger", ledger)
    lost = 0
    for number in range(kills):
        # At any moment of the part that falls to this run.
        until = relay.embedded.total() + dice.randrange(1, count // kills)
        load = command.start(*arguments)
        wait_for(lambda: relay.embedded.total() >= until or load.poll() is not None)  # noqa: B023 - called at once
        load.kill()
        load.communicate()
        assert load.returncode in (0, -signal.SIGKILL), number
        # The embedder may still be at work for it.
        wait_for(lambda: not relay.in_flight)
        in_flight = len(relay.embedded) - recorded(ledger)
        assert 0 <= in_flight <= WINDOW
        lost += in_flight
    account_of(command(*arguments))
    assert ids(lite_address, name) == sorted(path.name for path in many.iterdir())
    again = relay.embedded.total() - count
    assert set(relay.embedded.values()) <= set(range(1, kills + 2))
    assert len(relay.embedded) == count
    # No image more often than it was in flight when the load was killed.
    assert again <= lost
    assert account_of(command(*arguments))["skipped"] == count


@ONCE_AND_OFTEN
@pytest.mark.timeout(3600)
def test_an_import_that_is_killed_again_and_again_stores_each_image_with_its_own_regions(
    command: Command, lite_address: str, name: str, tmp_path: Path, kills: int
) -> None:
    dice, share = random.Random(2), 1500
    images = [image_with_regions(number) for number in range(share * kills)]
    write_images(tmp_path / "images.parquet", images)
    arguments: list[str | Path] = ["import", tmp_path / "images.parquet", "--json"]
    for number in range(kills):
        until = stored(lite_address, name) + dice.randrange(1, share // 2)
        load = command.start(*arguments)
        wait_for(lambda: stored(lite_address, name) >= until or load.poll() is not None)  # noqa: B023 - called at once
        load.kill()
        load.communicate()
        assert load.returncode == -signal.SIGKILL, number
        assert until <= stored(lite_address, name) < len(images)
    account_of(command(*arguments))
    with Client(lite_address, timeout=60) as client:
        check_stored(client, name, images)
    assert account_of(command(*arguments))["skipped"] == len(images)


def test_services_that_are_restarted_in_the_middle_lose_nothing(stack: Stack, many: Path) -> None:
    load = stack.command.start(*ingest(many, "-c", "images"))
    for part, process in enumerate((stack.search_process, stack.embedder_process), start=1):
        wait_for(lambda: stored(stack.search, "images") >= 20 * part)  # noqa: B023 - called at once
        assert load.poll() is None
        process.stop()
        restart(process)
    account = finish(load)
    assert (account["stored"], account["failed"]) == (IMAGES, 0)
    assert len(ids(stack.search, "images")) == IMAGES


@pytest.mark.soak
def test_a_search_service_that_is_killed_in_the_middle_loses_nothing(stack: Stack, many: Path) -> None:
    load = stack.command.start(*ingest(many, "-c", "images"))
    wait_for(lambda: stored(stack.search, "images") >= 50)
    stack.search_process.kill()
    time.sleep(2)
    stack.search_process.start()
    account = finish(load)
    assert (account["stored"], account["failed"]) == (IMAGES, 0)
    assert len(ids(stack.search, "images")) == IMAGES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_calls_in_flight(
    command: Command, lite_address: str, name: str, many: Path, relay: Relay, number: signal.Signals
) -> None:
    arguments = ingest(many, "--embedder", relay.address, "--parallel-calls", str(STREAMS))
    load = command.start(*arguments)
    wait_for(lambda: relay.embedded)
    load.send_signal(number)
    account = finish(load, code=130)
    assert account["stopped"] == "interrupted"
    assert int(str(account["unfinished"])) > 0
    assert 0 < int(str(account["stored"])) < IMAGES
    # All that was embedded is stored.
    assert relay.embedded.total() == account["stored"] == len(ids(lite_address, name))
    assert account_of(command(*arguments))["skipped"] == account["stored"]
    assert relay.embedded.total() == IMAGES


def test_a_second_signal_ends_it_now(command: Command, embedder_address: str, many: Path) -> None:
    with Relay(embedder_address) as relay:
        # A load waits five seconds for calls in flight, unless it is ended.
        relay.frozen = True
        load = command.start(*ingest(many, "--embedder", relay.address))
        wait_for(lambda: relay.in_flight)
        load.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert load.poll() is None
        load.send_signal(signal.SIGINT)
        account = finish(load, code=130)
    assert (account["stored"], account["failed"]) == (0, 0)
    assert account_of(command(*ingest(many)))["stored"] == IMAGES


def test_a_dry_run_decodes_and_changes_nothing(tmp_path: Path, many: Path) -> None:
    # There is no service at all.
    command = Command({"IMAGESEARCH_TARGET": f"127.0.0.1:{free_port()}", "XDG_STATE_HOME": str(tmp_path)})
    (many / "text.png").write_text("no image")
    (many / "huge.png").write_bytes(png(1)[:40])
    rejects = tmp_path / "rejects.jsonl"
    account = account_of(command(*ingest(many, "--dry-run", "--rejects", rejects), code=1))
    assert (account["stored"], account["failed"], account["dry_run"]) == (IMAGES, 2, True)
    assert sorted(json.loads(line)["id"] for line in rejects.read_text().splitlines()) == ["huge.png", "text.png"]
    assert not list(tmp_path.rglob("*.ledger"))


def test_a_dry_run_tells_what_is_left_to_do(command: Command, lite_address: str, name: str, photographs: Path) -> None:
    command("ingest", str(photographs), "--limit", "5")
    account = json.loads(command("ingest", str(photographs), "--dry-run", "--json"))
    assert (account["skipped"], account["stored"]) == (5, 13)
    assert stored(lite_address, name) == 5


def test_without_a_terminal_progress_is_lines_of_a_log(
    command: Command, name: str, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)
    done = command.run("ingest", many)
    assert f"{IMAGES} of {IMAGES} images stored in {name}" in done.stdout
    assert " stored, 0 failed" in done.stderr
    assert f" of {IMAGES}, " in done.stderr
    assert "\x1b" not in done.stderr


def test_a_ledger_that_cannot_be_written_is_told_before_anything_is_embedded(
    command: Command, lite_address: str, name: str, many: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "ledger" in command.run(*ingest(many, "--ledger", blocked / "of.ledger"), code=3).stderr
    assert stored(lite_address, name) == 0


def test_another_process_with_the_same_ledger_is_refused(command: Command, embedder_address: str, many: Path) -> None:
    with Relay(embedder_address, refused=1.0) as relay:
        first = command.start(*ingest(many, "--embedder", relay.address))
        # It stays where it is.
        wait_for(lambda: relay.refusals)
        assert "in use by another process" in command.run(*ingest(many), code=3).stderr
        relay.refused = 0.0
        assert finish(first)["stored"] == IMAGES
