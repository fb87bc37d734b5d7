"""An embedder process to measure, and callers that generate load."""

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
# Seconds until all callers have started.
WARM_SECONDS = 1.5
# Responses that are more seconds apart than this belong to different batches.
BETWEEN_BATCHES = 0.02


@contextmanager
def embedder(**settings: str) -> Iterator[tuple[str, int]]:
    """Run an embedder with these settings; yield its address and process id."""
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
    """Run an embedder limited to one CPU; yield its address, and whether a quota limits it (else CPU affinity).

    A quota needs cgroup v1 and the permission to create groups.
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
            # Child processes start in the group of this process, which leaves the group once the service has started.
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
    """Return the resident memory of a process."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Answers:
    """The results of calls."""

    ok: list[float] = field(default_factory=list)
    """Seconds of each successful call."""
    moments: list[float] = field(default_factory=list)
    """Moment of each successful response."""
    refused: list[float] = field(default_factory=list)
    """Seconds of each call that failed with RESOURCE_EXHAUSTED."""
    other: Counter[str] = field(default_factory=Counter)
    """Number of calls by any other status code."""


def steady_rate(moments: Sequence[float], begin: float = 0.0) -> float:
    """Return the responses per second, from the end of a batch after `begin` to the end of the last batch but one.

    Responses come in bursts, one batch at a time. A window that started or ended within a batch would count a part of
    a batch without its time.
    """
    later = sorted(moment for moment in moments if moment >= begin)
    ends = [number for number in range(len(later) - 1) if later[number + 1] - later[number] > BETWEEN_BATCHES]
    first, last = ends[0], ends[-1]
    return (last - first) / (later[last] - later[first])


class Load:
    """Sends images to an embedder."""

    def __init__(self, address: str, images: Sequence[bytes]) -> None:
        """Use more `images` than there are calls in flight: equal images are embedded once."""
        self._address = address
        self._images = itertools.cycle(images)

    def channel(self) -> grpc.aio.Channel:
        """Open a channel without retries, so that each call counts once."""
        return open_channel(self._address, MAX_MESSAGE_BYTES)

    async def call(
        self, stub: "embedder_pb2_grpc.EmbedderServiceAsyncStub", answers: Answers, call_seconds: float
    ) -> None:
        """Call Embed once and record the result."""
        request = embedder_pb2.EmbedRequest(image=encoded_image_pb2.EncodedImage(content=next(self._images)))
        began = time.perf_counter()
        try:
            await stub.Embed(request, timeout=call_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                answers.refused.append(time.perf_counter() - began)
            else:
                answers.other[error.code().name] += 1
        else:
            answers.moments.append(time.perf_counter())
            answers.ok.append(answers.moments[-1] - began)

    async def callers(self, count: int, seconds: float) -> float:
        """Return the vectors per second of `count` callers that each call again after each response."""
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
        # After the end callers stop one by one, and batches are no longer full.
        return steady_rate([moment for moment in answers.moments if moment < end], begin)

    async def arrivals(self, rate: float, seconds: float, call_seconds: float, answers: Answers) -> None:
        """Send calls at a fixed rate, independent of the responses; record the results in `answers`."""
        async with self.channel() as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            began = time.perf_counter()
            calls = []
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                calls.append(asyncio.create_task(self.call(stub, answers, call_seconds)))
            await asyncio.gather(*calls)

    async def one_by_one(self, count: int, pause: float = 0.0) -> list[float]:
        """Return the seconds of sequential calls."""
        answers = Answers()
        async with self.channel() as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            for _ in range(count):
                await self.call(stub, answers, 60)
                await asyncio.sleep(pause)
        if len(answers.ok) != count:
            raise RuntimeError(f"calls failed: {answers.other}")
        return answers.ok

    async def regions_beside_plain(self, count: int, model: str, max_regions: int) -> tuple[list[float], list[float]]:
        """Return the seconds of sequential calls of Embed, and of EmbedRegions for the same images, alternating."""
        options = embedder_pb2.RegionOptions(max_regions=max_regions)
        plain, with_regions = [], []
        async with self.channel() as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            for _ in range(count):
                image = encoded_image_pb2.EncodedImage(content=next(self._images))
                began = time.perf_counter()
                await stub.Embed(embedder_pb2.EmbedRequest(model=model, image=image))
                between = time.perf_counter()
                await stub.EmbedRegions(embedder_pb2.EmbedRegionsRequest(model=model, image=image, options=options))
                plain.append(between - began)
                with_regions.append(time.perf_counter() - between)
        return plain, with_regions

    async def stream(self, count: int) -> float:
        """Return the images per second of one EmbedStream."""

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
        """Send images over one EmbedStream until cancelled."""

        async def requests() -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
            while True:
                yield self._item()

        async with self.channel() as channel:
            async for _ in embedder_pb2_grpc.EmbedderServiceStub(channel).EmbedStream(requests()):
                pass

    def _item(self) -> embedder_pb2.EmbedStreamRequest:
        return embedder_pb2.EmbedStreamRequest(image=encoded_image_pb2.EncodedImage(content=next(self._images)))
