"""DecodeThreads: the order of models, and that cancelled callers leave nothing in memory."""

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from embedder_service.core.decode_threads import DecodeThreads
from embedder_service.core.held_image import AdmittedImage
from embedder_service.core.types import EncodedImage
from grpc_kit.errors import InvalidArgumentError
from tests.unit.embedder.doubles import settle, until


class Pool:
    """One thread that reads images while the gate is open, and records them."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.executor = executor
        self.threads = DecodeThreads(executor, 1)
        self.gate = threading.Event()
        self.read: list[bytes] = []
        self.begun: list[bytes] = []

    def _read(self, image: EncodedImage) -> bytes:
        self.begun.append(image.content)
        assert self.gate.wait(10)
        self.read.append(image.content)
        return image.content

    def send(self, content: bytes, model: str = "a") -> "tuple[asyncio.Task[bytes], AdmittedImage]":
        admitted = AdmittedImage(EncodedImage(content), nothing, nothing)
        return asyncio.create_task(self.threads.run(model, admitted.hold, self._read)), admitted

    async def busy(self) -> "asyncio.Task[bytes]":
        """Occupy the thread."""
        task, _ = self.send(b"first")
        await until(lambda: self.begun == [b"first"])
        return task


def nothing() -> None:
    """Release nothing."""


@pytest.fixture
def pool() -> Iterator[Pool]:
    with ThreadPoolExecutor(1) as executor:
        pool = Pool(executor)
        yield pool
        pool.gate.set()


async def test_cancelled_callers_leave_nothing_in_the_executor(pool: Pool) -> None:
    first = await pool.busy()
    callers = [pool.send(b"%d" % number)[0] for number in range(50)]
    await settle()
    assert pool.executor._work_queue.qsize() == 0
    for caller in callers[:-1]:
        caller.cancel()
    await settle()
    pool.gate.set()
    assert [await first, await callers[-1]] == [b"first", b"49"]
    assert pool.read == [b"first", b"49"]


async def test_a_running_job_holds_its_image_after_the_caller_is_cancelled(pool: Pool) -> None:
    freed: list[str] = []
    admitted = AdmittedImage(EncodedImage(b"x"), lambda: freed.append("image"), lambda: freed.append("bytes"))
    caller = asyncio.create_task(pool.threads.run("a", admitted.hold, pool._read))
    await until(lambda: pool.begun == [b"x"])
    caller.cancel()
    admitted.release()
    await settle()
    assert caller.cancelled()
    assert freed == ["image"]
    following, _ = pool.send(b"next")
    await settle()
    pool.gate.set()
    assert await following == b"next"
    assert freed == ["image", "bytes"]


async def test_models_alternate_for_a_thread(pool: Pool) -> None:
    await pool.busy()
    slow = [pool.send(b"slow", "slow")[0] for _ in range(5)]
    await settle()
    fast = [pool.send(b"fast", model)[0] for model in ("fast", "fast")]
    await settle()
    pool.gate.set()
    await asyncio.gather(*slow, *fast)
    assert pool.read[1:] == [b"slow", b"fast", b"slow", b"fast", b"slow", b"slow", b"slow"]


async def test_a_caller_cancelled_just_after_it_got_a_thread_releases_it(pool: Pool) -> None:
    await pool.busy()
    leaving, following = pool.send(b"leaving")[0], pool.send(b"following", "b")[0]
    await settle()
    pool.threads._release("a")
    leaving.cancel()
    pool.gate.set()
    assert await asyncio.wait_for(following, 10) == b"following"
    assert leaving.cancelled()


def fails(_: EncodedImage) -> bytes:
    kept = _.content
    try:
        raise ValueError(len(kept))
    except ValueError:
        raise InvalidArgumentError("IMAGE_CORRUPT", "it is corrupt") from None


def succeeds(image: EncodedImage) -> int:
    return len(image.content)


@pytest.mark.parametrize("read", [fails, succeeds])
async def test_the_bytes_are_freed_when_the_job_has_ended(pool: Pool, read: Callable[[EncodedImage], int]) -> None:
    content = bytes(bytearray(1000))
    admitted = AdmittedImage(EncodedImage(content), nothing, nothing)
    references = sys.getrefcount(content)
    gc.disable()
    try:
        (outcome,) = await asyncio.gather(pool.threads.run("a", admitted.hold, read), return_exceptions=True)
        admitted.release()
        await settle()
        assert sys.getrefcount(content) == references - 1
        assert outcome == 1000 or isinstance(outcome, InvalidArgumentError)
    finally:
        gc.enable()


async def test_a_refused_job_releases_its_thread(pool: Pool) -> None:
    pool.executor.shutdown()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="after shutdown"):
            await asyncio.wait_for(pool.send(b"x")[0], 5)
