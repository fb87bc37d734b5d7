"""Acknowledged writes survive every stop and kill; unavailable services are reported and used again later."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.local_stack import ServiceProcess, StartError, free_port, is_healthy
from grpc_kit.errors import DeadlineExceededError, ServiceError, UnavailableError
from imagesearch_client import Client, Embedding, NewImage
from tests.e2e.conftest import Stack, small_embedder
from tests.harness.processes import EmbedderProcess, SearchProcess
from tests.milvus_server import MilvusProcess

FINGERPRINT = "counted"
# Number of acknowledged writes before the fault.
ENOUGH = 500


def restart(process: ServiceProcess) -> None:
    process.start()
    process.wait_until_healthy()


def eventually(holds: Callable[[], bool], seconds: float = 60, pause: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(pause)


def vectors(prefix: str) -> Iterator[NewImage]:
    n = 0
    while True:
        yield NewImage(f"{prefix}{n}", Embedding([1.0, float(n), 0.0, 1.0], FINGERPRINT))
        n += 1


def write_until_it_breaks(client: Client, prefix: str, break_it: Callable[[], object]) -> tuple[set[str], str]:
    """Writes without end, breaks something after a while; gives the ids that were acknowledged, and why it ended."""
    acknowledged: set[str] = set()
    try:
        for result in client.write("c", vectors(prefix)):
            if result.error is None:
                acknowledged.add(result.id)
            if len(acknowledged) == ENOUGH:
                break_it()
    except ServiceError as error:
        return acknowledged, error.reason
    pytest.fail("an endless stream came to its end")


@pytest.fixture(scope="module")
def stopped_embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbedderProcess]:
    """An embedder that tests may freeze, and stop if they start it again afterwards."""
    with small_embedder(tmp_path_factory.mktemp("embedder") / "log") as process:
        yield process


def test_restarts_of_both_services_lose_no_acknowledged_write(stack: Stack, photographs: Path) -> None:
    with Client(stack.search, timeout=60) as client:
        client.create_collection("c", dimension=4, fingerprint=FINGERPRINT)
        client.create_collection("photos")
        pictures = [NewImage(path.name, path.read_bytes()) for path in sorted(photographs.glob("*.jpg"))[:4]]
        assert all(result.error is None for result in client.write("photos", pictures))
        acknowledged, reason = write_until_it_breaks(client, "stop", stack.search_process.ask_to_stop)
        # The stream was drained and not interrupted: every request that was read has its response.
        assert reason == "STOPPING"
        assert stack.search_process.stop() == 0
        assert stack.embedder_process.stop() == 0
    restart(stack.search_process)
    restart(stack.embedder_process)
    with Client(stack.search, timeout=60) as client:
        assert client.count("c") == len(acknowledged)
        for some in range(0, ENOUGH, 100):
            assert client.get("c", f"stop{some}")
        found = client.search_by_image("photos", pictures[0].source, limit=4)  # type: ignore[arg-type]
        assert found[0].image.id == pictures[0].id
        assert len(found) == 4


def test_a_killed_search_service_loses_no_acknowledged_write(own_search: SearchProcess) -> None:
    with Client(own_search.address, timeout=60) as client:
        client.create_collection("c", dimension=4, fingerprint=FINGERPRINT)
        acknowledged, _ = write_until_it_breaks(client, "kill", own_search.kill)
    restart(own_search)
    with Client(own_search.address, timeout=60) as client:
        assert client.count("c") >= len(acknowledged) >= ENOUGH
        assert all(client.get("c", image_id) for image_id in sorted(acknowledged)[::100])


def test_a_search_service_that_dies_before_its_first_response_blocks_no_caller(
    stopped_embedder: EmbedderProcess, photographs: Path, tmp_path: Path
) -> None:
    content = (photographs / "coins.jpg").read_bytes()
    stack = Stack(tmp_path, str(tmp_path / "milvus.db"), embedder_process=stopped_embedder)
    with stack.search_process, Client(stack.search) as client:
        client.create_collection("photos")
        # The embedder is frozen, so there is no response.
        stack.embedder_process.signal(signal.SIGSTOP)
        sent = threading.Event()

        def images() -> Iterator[NewImage]:
            yield from (NewImage(f"i{n}", content) for n in range(5))
            sent.set()

        def kill_when_all_is_sent() -> None:
            sent.wait(30)
            time.sleep(0.5)
            stack.search_process.kill()

        killer = threading.Thread(target=kill_when_all_is_sent)
        killer.start()
        try:
            with pytest.raises(UnavailableError):
                list(client.write("photos", images()))
        finally:
            killer.join()
            stack.embedder_process.signal(signal.SIGCONT)


def test_searches_by_vector_and_id_work_without_the_embedder(
    stopped_embedder: EmbedderProcess, photographs: Path, tmp_path: Path
) -> None:
    picture = (photographs / "coins.jpg").read_bytes()
    stack = Stack(tmp_path, str(tmp_path / "milvus.db"), 3, stopped_embedder)
    with stack.search_process, Client(stack.search, timeout=60) as client:
        client.create_collection("photos")
        assert [r.error for r in client.write("photos", [NewImage("a", picture), NewImage("b", picture)])] == [None] * 2
        stack.embedder_process.stop()
        stored = client.get("photos", "a", with_vector=True)
        assert stored.embedding is not None
        assert {hit.image.id for hit in client.search_by_vector("photos", stored.embedding)} == {"a", "b"}
        assert [hit.image.id for hit in client.search_by_id("photos", "a")] == ["b"]
        with pytest.raises(UnavailableError) as caught:
            client.search_by_image("photos", picture)
        assert caught.value.reason == "EMBEDDER_UNAVAILABLE"
        assert stack.embedder in caught.value.message
        assert caught.value.retry_after
        (result,) = client.write("photos", [NewImage("c", picture)])
        assert result.error is not None
        assert result.error.reason == "EMBEDDER_UNAVAILABLE"
        with pytest.raises(UnavailableError):
            client.create_collection("another")
        restart(stack.embedder_process)

        def answers() -> bool:
            try:
                return client.search_by_image("photos", picture)[0].score > 0.99
            except UnavailableError:
                return False

        eventually(answers)
        assert [result.error for result in client.write("photos", [NewImage("c", picture)])] == [None]


def test_a_restart_of_the_embedder_loses_no_image(
    stopped_embedder: EmbedderProcess, photographs: Path, tmp_path: Path
) -> None:
    content = (photographs / "coins.jpg").read_bytes()
    stack = Stack(tmp_path, str(tmp_path / "milvus.db"), embedder_process=stopped_embedder)
    with stack.search_process, Client(stack.search, timeout=60) as client:
        client.create_collection("photos")
        results = client.write("photos", (NewImage(f"i{n}", content) for n in range(60)))
        assert next(results).error is None
        stack.embedder_process.ask_to_stop()
        assert stack.embedder_process.stop() == 0
        restart(stack.embedder_process)
        assert [result.error for result in results] == [None] * 59
        assert client.count("photos") == 60


def test_a_call_to_a_hanging_embedder_times_out(
    stopped_embedder: EmbedderProcess, photographs: Path, tmp_path: Path
) -> None:
    content = (photographs / "coins.jpg").read_bytes()
    stack = Stack(tmp_path, str(tmp_path / "milvus.db"), 2, stopped_embedder)
    with stack.search_process, Client(stack.search, timeout=60) as client:
        client.create_collection("photos")
        stack.embedder_process.signal(signal.SIGSTOP)
        try:
            (result,) = client.write("photos", [NewImage("a", content)])
            assert result.error is not None
            assert result.error.reason == "EMBEDDER_UNAVAILABLE"
            with pytest.raises(UnavailableError) as caught:
                client.search_by_image("photos", content)
            assert caught.value.reason == "EMBEDDER_UNAVAILABLE"
        finally:
            stack.embedder_process.signal(signal.SIGCONT)
        assert [result.error for result in client.write("photos", [NewImage("a", content)])] == [None]


def test_a_killed_milvus_server_is_reported_and_recovers_all_data(tmp_path: Path) -> None:
    with MilvusProcess(tmp_path / "milvus") as server:
        stack = Stack(tmp_path, server.uri)
        with stack.search_process, Client(stack.search, timeout=20) as client:
            client.create_collection("c", dimension=4, fingerprint=FINGERPRINT)
            acknowledged = set()
            for result in client.write("c", vectors("i")):
                if result.error is not None:
                    assert result.error.reason in {"MILVUS_UNAVAILABLE", "MILVUS_TIMEOUT"}
                    break
                acknowledged.add(result.id)
                if len(acknowledged) == ENOUGH:
                    server.kill()
            with pytest.raises((UnavailableError, DeadlineExceededError)) as caught:
                client.count("c")
            assert caught.value.reason in {"MILVUS_UNAVAILABLE", "MILVUS_TIMEOUT"}
            eventually(lambda: not is_healthy(stack.search))
            server.start()
            eventually(lambda: is_healthy(stack.search))
            eventually(lambda: counts(client) >= len(acknowledged))
            assert all(client.get("c", image_id) for image_id in sorted(acknowledged)[::100])


@pytest.mark.soak
def test_an_unavailable_milvus_server_blocks_no_caller_and_is_used_again_later(tmp_path: Path) -> None:
    """Each call ends by its deadline, and the first call after the return of Milvus succeeds."""
    seconds = 2.0
    calls: list[tuple[float, float, str]] = []
    done = threading.Event()

    def search(address: str, number: int) -> None:
        with Client(address, timeout=seconds) as client:
            while not done.is_set():
                began, outcome = time.monotonic(), "OK"
                try:
                    if number % 3:
                        client.search("c", Embedding([1.0, 0.0, 0.0, 1.0], FINGERPRINT))
                    else:
                        client.get("c", "i0", strong=True)
                except ServiceError as error:
                    outcome = error.reason
                calls.append((began, time.monotonic(), outcome))
                # A caller that is refused immediately waits before its retry.
                time.sleep(0.01 if outcome == "OK" else 0.2)

    with MilvusProcess(tmp_path / "milvus") as server:
        stack = Stack(tmp_path, server.uri)
        with stack.search_process, Client(stack.search, timeout=20) as client:
            client.create_collection("c", dimension=4, fingerprint=FINGERPRINT)
            assert next(client.write("c", vectors("i"))).error is None
            threads = [threading.Thread(target=search, args=(stack.search, number)) for number in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(3)
            server.kill()
            gone = time.monotonic()
            time.sleep(20)
            server.start()
            back = time.monotonic()
            time.sleep(6)
            done.set()
            for thread in threads:
                thread.join()
    assert max(end - began for began, end, _ in calls) < seconds + 1
    before = [outcome for _, end, outcome in calls if end < gone]
    assert set(before) == {"OK"}
    meanwhile = {outcome for began, _, outcome in calls if began > gone and outcome != "OK"}
    assert meanwhile <= {"MILVUS_UNAVAILABLE", "MILVUS_TIMEOUT", "DEADLINE_EXCEEDED", "UNAVAILABLE"}
    first = min(end for began, end, outcome in calls if began > gone and outcome == "OK")
    assert first - back < 5


def counts(client: Client) -> int:
    try:
        return client.count("c")
    except (UnavailableError, DeadlineExceededError):
        return -1


def test_the_search_service_waits_for_milvus_at_start(tmp_path: Path) -> None:
    stack = Stack(tmp_path, f"http://127.0.0.1:{free_port()}")
    stack.search_process.start()
    try:
        with Client(stack.search, timeout=20) as client:

            def says_that_it_does_not_serve() -> bool:
                try:
                    return not client.is_serving()
                except UnavailableError:
                    # The service does not listen yet.
                    return False

            eventually(says_that_it_does_not_serve)
            with pytest.raises(UnavailableError) as caught:
                client.count("c")
            assert caught.value.reason == "MILVUS_UNAVAILABLE"
    finally:
        assert stack.search_process.stop() == 0


@pytest.mark.usefixtures("own_search")
def test_a_milvus_lite_file_in_use_stops_the_start(tmp_path: Path) -> None:
    second = Stack(tmp_path, str(tmp_path / "milvus.db"))
    with pytest.raises(StartError, match="is open in another process"):
        second.search_process.__enter__()
