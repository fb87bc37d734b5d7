"""Measures the embedder: throughput, latency, regions, fairness, overload, memory, one CPU.

Everything is measured against a peer in the same run: the bare engine on ready batches (A), and the way that articles
do it, one `model.predict` after the other (B).
"""

import asyncio
import contextlib
import statistics
import time
from io import BytesIO
from pathlib import Path

import numpy as np

from benchmarks import photographs
from benchmarks.report import Report, arguments, percentile
from benchmarks.serving import Answers, Load, embedder, embedder_on_one_cpu, resident_bytes
from embedder_service.adapters import weights_files
from embedder_service.adapters.model_loading import LoadedModel
from embedder_service.bootstrap import load_models
from embedder_service.core.batching import BatchPolicy
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.types import EncodedImage, Limits, Pixels
from embedder_service.settings import EmbedderSettings
from grpc_kit.deadline import Deadline

PARTS = ("throughput", "latency", "regions", "fairness", "overload", "memory", "one-cpu")
CALLERS = 32
# More images than calls in flight.
IMAGES = 256
SECONDS = 8.0
INTERACTIVE_OVER = BatchPolicy(1, 1).interactive_memory + 1.0
STREAMED = 260
UNLOADED_CALLS = 100
BULK_CALLS = 100
OVERLOAD_SECONDS = 60.0
# Timeout of a call, in seconds.
PATIENCE = 10.0
MEMORY_IMAGES = 5000
MEMORY_WARM_UP = 1000
ONE_CPU_IMAGES = 60
REGION_MODELS = ("vgg16-max-native", "mobilenet-max-native")
MAX_REGIONS = 8
REGION_CALLS = 40

NEVER = Deadline.after(None)


class Engine:
    """The model and the decoder of the service, without gRPC and batching."""

    def __init__(self) -> None:
        settings = EmbedderSettings(models="vgg16", weights="")
        self.model: LoadedModel = load_models(settings)[0]
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        self._decoder = ImageDecoder(self.model.info.input, limits, PixelBudget(settings.max_decoding_pixels))

    def decode(self, content: bytes) -> Pixels:
        """Decode an image as the service does."""
        return self._decoder.decode(EncodedImage(content), NEVER)

    def rate(self, ready: Pixels, batch: int, seconds: float) -> float:
        """Return the images per second for batches that are ready."""
        runs = 0
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            start = runs * batch % (len(ready) - batch + 1)
            self.model.embed(ready[start : start + batch])
            runs += 1
        return runs * batch / spent

    def floor(self, images: list[bytes]) -> list[float]:
        """Return the seconds to decode and embed one image, for each image."""
        times = []
        for content in images:
            began = time.perf_counter()
            self.model.embed(self.decode(content)[np.newaxis])
            times.append(time.perf_counter() - began)
        return times


class ArticleWay:
    """The code of typical articles: load_img, preprocess_input and model.predict, image by image, in float32."""

    def __init__(self) -> None:
        # Import Keras only after the engine has set the size of TensorFlow's thread pools.
        from keras.applications import vgg16  # noqa: PLC0415
        from keras.utils import img_to_array, load_img  # noqa: PLC0415

        self._preprocess, self._load, self._to_array = vgg16.preprocess_input, load_img, img_to_array
        path = str(weights_files.default_cache() / weights_files.VGG16.file_name)
        self._network = vgg16.VGG16(include_top=False, weights=path, pooling="avg", input_shape=(224, 224, 3))

    def rate(self, images: list[bytes], seconds: float) -> float:
        """Return the images per second."""
        done = 0
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            image = self._load(BytesIO(images[done % len(images)]), target_size=(224, 224))
            batch = self._preprocess(np.expand_dims(self._to_array(image), axis=0))
            self._network.predict(batch, verbose=0)
            done += 1
        return done / spent


async def throughput(report: Report, engine: Engine, load: Load, images: list[bytes], rounds: int) -> None:
    """Measure A, B, C and D, alternating."""
    article = ArticleWay()
    article.rate(images, 2.0)
    ready = np.stack([engine.decode(content) for content in images[:64]])
    limit = engine.model.info.max_batch_size
    rates: dict[str, list[float]] = {name: [] for name in ("A", "B", "C", "D")}
    for _ in range(rounds):
        rates["A"].append(engine.rate(ready, limit, SECONDS))
        rates["C"].append(await load.callers(CALLERS, SECONDS))
        # Bulk batches are small while there are interactive calls; wait until the service knows that these have ended.
        await asyncio.sleep(INTERACTIVE_OVER)
        rates["D"].append(await load.stream(STREAMED))
        rates["B"].append(article.rate(images, SECONDS))
    a = report.median(f"A_engine_batch_{limit}_images_per_second", rates["A"])
    b = report.median("B_article_images_per_second", rates["B"])
    c = report.median(f"C_embed_{CALLERS}_callers_images_per_second", rates["C"])
    d = report.median("D_stream_images_per_second", rates["D"])
    report.ratio("unary_over_engine", c / a, ">= 0.95")
    report.ratio("stream_over_engine", d / a, ">= 0.95")
    report.ratio("unary_over_article", c / b, ">= 3")
    for size in (1, 2, 4):
        each = [engine.rate(ready, size, 2.0) for _ in range(rounds)]
        report.median(f"engine_batch_{size}_images_per_second", each)


async def latency(report: Report, engine: Engine, load: Load, images: list[bytes], rounds: int) -> None:
    """Compare sequential calls with decoding and embedding one image."""
    calls, floors = [], []
    for _ in range(rounds):
        floors.append(percentile(engine.floor(images[:UNLOADED_CALLS]), 50))
        calls.append(percentile(await load.one_by_one(UNLOADED_CALLS), 50))
    floor = report.median("decode_and_batch_of_one_p50_seconds", floors)
    call = report.median("embed_unloaded_p50_seconds", calls)
    report.ratio("latency_over_floor", call / floor, "<= 1.15")


async def regions(report: Report, load: Load, rounds: int) -> None:
    """Compare calls of EmbedRegions with calls of Embed for the same images and models, alternating."""
    costs = []
    for model in REGION_MODELS:
        plain, with_regions = await load.regions_beside_plain(rounds * REGION_CALLS, model, MAX_REGIONS)
        name = model.replace("-", "_")
        embed, embed_regions = percentile(plain, 50), percentile(with_regions, 50)
        report.figure(f"embed_{name}_p50_seconds", embed)
        report.figure(f"embed_regions_{name}_p50_seconds", embed_regions)
        costs.append(embed_regions / embed)
    report.ratio("regions_cost", max(costs), "<= 1.15")


async def fairness(report: Report, load: Load, bulk: Load, rounds: int) -> None:
    """Measure interactive calls alone, and beside an endless stream."""
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(percentile(await load.one_by_one(BULK_CALLS, pause=0.05), 99))
        stream = asyncio.create_task(bulk.endless_stream())
        await asyncio.sleep(2.0)
        beside.append(percentile(await load.one_by_one(BULK_CALLS, pause=0.05), 99))
        stream.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stream
        await asyncio.sleep(2.0)
    unloaded = report.median("embed_unloaded_p99_seconds", alone)
    loaded = report.median("embed_under_bulk_p99_seconds", beside)
    report.ratio("interactive_under_bulk", loaded / unloaded, "<= 3")


async def overload(report: Report, load: Load, rounds: int) -> None:
    """Send twice the calls that the service can answer. Measure its capacity right before, because the speed drifts."""
    offered, goodputs, ratios = [], [], []
    answers = Answers()
    for _ in range(rounds):
        peak = await load.callers(CALLERS, SECONDS)
        offered.append(2 * peak)
        await load.arrivals(2 * peak, OVERLOAD_SECONDS, PATIENCE, answers)
        first = answers.moments[0]
        goodputs.append(sum(moment < first + OVERLOAD_SECONDS for moment in answers.moments) / OVERLOAD_SECONDS)
        ratios.append(goodputs[-1] / peak)
        answers.moments.clear()
    report.median("overload_offered_calls_per_second", offered)
    report.median("overload_goodput_images_per_second", goodputs)
    report.figure("overload_answered", len(answers.ok))
    report.figure("overload_refused", len(answers.refused))
    report.figure("overload_other", sum(answers.other.values()), "0")
    report.figure("overload_answered_p99_seconds", percentile(answers.ok, 99))
    report.figure("refusal_p99_seconds", percentile(answers.refused, 99), "< 0.05")
    report.ratio("goodput_under_overload", statistics.median(ratios), ">= 0.95")


async def memory(report: Report, address: str, pid: int) -> None:
    """Measure the memory of the service over images of all sizes."""
    load = Load(address, photographs.mixed(IMAGES))
    await load.stream(MEMORY_WARM_UP)
    before = resident_bytes(pid)
    await load.stream(MEMORY_IMAGES)
    report.figure("memory_after_warm_up_mb", before / 1e6)
    report.figure(f"memory_growth_over_{MEMORY_IMAGES}_mb", (resident_bytes(pid) - before) / 1e6, "< 50")


async def one_cpu(report: Report, images: list[bytes], rounds: int) -> None:
    """Compare a service that detects its one CPU with a service that is configured for one thread."""
    rates: dict[str, list[float]] = {"itself": [], "by_hand": []}
    for _ in range(rounds):
        for name, settings in (("itself", {}), ("by_hand", {"threads": "1", "decode_threads": "1"})):
            with embedder_on_one_cpu(**settings) as (address, by_quota):
                rates[name].append(await Load(address, images).stream(ONE_CPU_IMAGES))
                report.figure("one_cpu_by_quota", by_quota)
    itself = report.median("one_cpu_images_per_second", rates["itself"])
    by_hand = report.median("one_cpu_by_hand_images_per_second", rates["by_hand"])
    report.ratio("one_cpu_over_by_hand", itself / by_hand, "0.9 to 1.1")


async def measure(rounds: int, parts: list[str], path: Path | None) -> None:
    """Run the parts one after the other."""
    report = Report("embedder_throughput")
    images = photographs.jpegs(IMAGES)
    if {"throughput", "latency", "overload"}.intersection(parts):
        engine = Engine()
        with embedder() as (address, _):
            load = Load(address, images)
            await load.stream(CALLERS)
            if "throughput" in parts:
                await throughput(report, engine, load, images, rounds)
            if "latency" in parts:
                await latency(report, engine, load, images, rounds)
            if "overload" in parts:
                await overload(report, load, rounds)
        del engine
    if {"fairness", "memory"}.intersection(parts):
        with embedder() as (address, pid):
            if "fairness" in parts:
                await fairness(report, Load(address, images), Load(address, photographs.jpegs(IMAGES, seed=7)), rounds)
            if "memory" in parts:
                await memory(report, address, pid)
    if "regions" in parts:
        with embedder(models=",".join(REGION_MODELS)) as (address, _):
            await regions(report, Load(address, images), rounds)
    if "one-cpu" in parts:
        await one_cpu(report, images, rounds)
    report.finish(path)


def main() -> None:
    """Measure, print the table and write the report."""
    options = arguments("embedder_throughput", __doc__, PARTS)
    asyncio.run(measure(options.rounds, options.only or list(PARTS), options.json))


if __name__ == "__main__":
    main()
