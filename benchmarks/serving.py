"""An embedder to measure, in a process of its own, and the callers that load it."""

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2

from demo.local_stack import ServiceProcess, free_port
from grpc_kit.channel import open_channel

MAX_MESSAGE_BYTES = 24 * 1024 * 1024
# Seconds until all callers are under way.
WARM_SECONDS = 1.5
# Answers that are further apart than this, in seconds, are of different batches.
BETWEEN_BATCHES = 0.02


@contextmanager
def embedder(**settings: str) -> Iterator[tuple[str, int]]:
    """A service with default settings but for those given; its address and process id."""
    address = f"127.0.0.1:{free_port()}"
    environment = {f"EMBEDDER_{name.upper()}": value for name, value in settings.items()}
    environment |= {"EMBEDDER_LISTEN_ADDRESS": address, "EMBEDDER_LOG_LEVEL": "INFO"}
    with (
        TemporaryDirectory() as folder,
        ServiceProcess("embedder_service", address, environment, Path(folder) / "log") as process,
    ):
        yield address, process.pid


@contextmanager
def embedder_on_one_cpu(**settings: str) -> Iterator[tuple[str, bool]]:
    """A service that may use one processor; its address, and whether that is by quota, else it is by affinity.

    A quota needs cgroup v1 and the right to make groups.
    """
    groups = Path("/sys/fs/cgroup/cpu")
    group = groups / f"imagesearch-benchmark-{os.getpid()}"
    before = os.sched_getaffinity(0)
    by_quota = True
    with ExitStack() as stack:
        try:
            group.mkdir()
            stack.callback(group.rmdir)
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("100000")
            # What this process starts is in its group; it leaves as soon as the service is there.
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            by_quota = False
            os.sched_setaffinity(0, {min(before)})
        try:
            address, _ = stack.enter_context(embedder(**settings))
        finally:
            os.sched_setaffinity(0, before)
            if by_quota:
                (groups / "cgroup.procs").write_text(str(os.getpid()))
        yield address, by_quota


def resident_bytes(pid: int) -> int:
    """The memory of a process that is in RAM."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """The time that a process has had on all processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Answers:
    """What came of some calls."""

    ok: list[float] = field(default_factory=list)
    """Seconds of each call that was answered with a vector."""
    moments: list[float] = field(default_factory=list)
    """When each of those was answered."""
    refused: list[float] = field(default_factory=list)
    """Seconds of each call that was refused with RESOURCE_EXHAUSTED."""
    other: Counter[str] = field(default_factory=Counter)
    """All other codes."""


def steady_rate(moments: Sequence[float], begin: float = 0.0) -> float:
    """Answers a second, from the end of a batch after `begin` to the end of the last one but one.

    Answers come in bursts, a batch at a time: a window that began or ended within one would count a part of a batch
    without its time.
    """
    later = sorted(moment for moment in moments if moment >= begin)
    ends = [number for number in range(len(later) - 1) if later[number + 1] - later[number] > BETWEEN_BATCHES]
    first, last = ends[0], ends[-1]
    return (last - first) / (later[last] - later[first])


class Load:
    """Calls an embedder with images, in turn."""

    def __init__(self, address: str, images: Sequence[bytes]) -> None:
        """`images` should be more than are ever under way at a time: equal ones are embedded once."""
        self._address = address
        self._images = itertools.cycle(images)

    def channel(self) -> grpc.aio.Channel:
        """A channel as services use it, but for retries: each call counts once."""
        return open_channel(self._address, MAX_MESSAGE_BYTES)

    async def call(self, stub: "embedder_pb2_grpc.EmbedderServiceAsyncStub", answers: Answers, patience: float) -> None:
        """One Embed call, whatever comes of it."""
        request = embedder_pb2.EmbedRequest(image=encoded_image_pb2.EncodedImage(content=next(self._images)))
        began = time.perf_counter()
        try:
            await stub.Embed(request, timeout=patience)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                answers.refused.append(time.perf_counter() - began)
            else:
                answers.other[error.code().name] += 1
        else:
            answers.moments.append(time.perf_counter())
            answers.ok.append(answers.moments[-1] - began)

    async def callers(self, count: int, seconds: float) -> float:
        """Vectors a second, for callers that each call again as soon as they are answered."""
        answers = Answers()
        async with self.channel() as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            begin = time.perf_counter() + WARM_SECONDS
            end = begin + seconds

            async def caller() -> None:
                while time.perf_counter() < end:
                    await self.call(stub, answers, 60)

            await asyncio.gather(*(caller() for _ in range(count)))
        if answers.refused or answers.other:
            raise RuntimeError(f"calls failed: {len(answers.refused)} refused, {answers.other}")
        # After the end they leave one by one, and batches are no longer full.
        return steady_rate([moment for moment in answers.moments if moment < end], begin)

    async def arrivals(self, rate: float, seconds: float, patience: float, answers: Answers) -> None:
        """Calls that come at a fixed rate, whether the ones before are answered or not; adds to `answers`."""
        async with self.channel() as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            began = time.perf_counter()
            calls = []
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                calls.append(asyncio.create_task(self.call(stub, answers, patience)))
            await asyncio.gather(*calls)

    async def one_by_one(self, count: int, pause: float = 0.0) -> list[float]:
        """The seconds of calls that follow each other."""
        answers = Answers()
        async with self.channel() as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            for _ in range(count):
                await self.call(stub, answers, 60)
                await asyncio.sleep(pause)
        if len(answers.ok) != count:
            raise RuntimeError(f"calls failed: {answers.other}")
        return answers.ok

    async def stream(self, count: int) -> float:
        """Images a second over one EmbedStream."""

        async def requests() -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
            for _ in range(count):
                yield self._item()

        moments = []
        async with self.channel() as channel:
            async for response in embedder_pb2_grpc.EmbedderServiceStub(channel).EmbedStream(requests()):
                if response.WhichOneof("result") != "embedding":
                    raise RuntimeError(f"an image failed: {response.error.message}")
                moments.append(time.perf_counter())
        return steady_rate(moments)

    async def endless_stream(self) -> None:
        """One EmbedStream that always has more to send, until it is cancelled."""

        async def requests() -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
            while True:
                yield self._item()

        async with self.channel() as channel:
            async for _ in embedder_pb2_grpc.EmbedderServiceStub(channel).EmbedStream(requests()):
                pass

    def _item(self) -> embedder_pb2.EmbedStreamRequest:
        return embedder_pb2.EmbedStreamRequest(image=encoded_image_pb2.EncodedImage(content=next(self._images)))
