"""The one place where the embedder is put together."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

from cachetools import LRUCache
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from PIL import Image

from embedder_service.adapters import memory, weights
from embedder_service.adapters.model_loading import LoadOptions, ModelLoader
from embedder_service.adapters.prometheus_observer import PrometheusObserver
from embedder_service.adapters.tensorflow_model import TensorflowModel
from embedder_service.api.servicer import DOMAIN, EmbedderServicer
from embedder_service.core.admission import Admission
from embedder_service.core.batching import Batcher, BatchPolicy
from embedder_service.core.decode_threads import DecodeThreads
from embedder_service.core.embed_images import DecodePool, EmbedImages, ModelPipeline, VectorCache
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.ports import Model
from embedder_service.core.turns import Turns
from embedder_service.core.types import Lane, Limits
from embedder_service.settings import EmbedderSettings
from grpc_kit.server import metrics
from grpc_kit.server.budget import Limit
from grpc_kit.server.grpc_server import Server, Service
from grpc_kit.server.hang_watch import HangWatch
from grpc_kit.server.process import end_after

# A run may take this many times as long as at start: other work of the machine makes it slower.
SLOWER = 50
# Decoding an image may take this many times as long as a run: both lanes decode at the same time, beside the runs.
DECODE_TIMES = 10


def load_models(settings: EmbedderSettings) -> list[TensorflowModel]:
    """Load the models, prove their vectors, and run each model in every batch size.

    Raises WeightsError where weights are missing or not the expected ones, GoldenError where a network gives other
    vectors than it should.
    """
    loader = ModelLoader(
        LoadOptions(
            cache=settings.weights_cache or weights.default_cache(),
            files=settings.weights_files,
            sha256=settings.weights_digests,
            precision=settings.precision,
            max_batch_size=settings.max_batch_size,
            threads=settings.threads,
        )
    )
    models = loader.load_all(settings.model_names)
    memory.settle()
    return models


@asynccontextmanager
async def serve(models: Sequence[Model], settings: EmbedderSettings) -> AsyncIterator[str]:
    """Serves loaded models, the first by default; gives the address, HOST:PORT. At the end it finishes its calls.

    Raises OSError where a port is taken or a file of TLS cannot be used.
    """
    # Pillow allocates some images as soon as it opens them, and refuses those of twice this many pixels before that.
    Image.MAX_IMAGE_PIXELS = settings.max_image_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    # All of its formats now, and not while the first caller waits.
    Image.init()
    memory.unmap_large_blocks()
    registry = metrics.new_registry()
    observer = PrometheusObserver(registry)
    async with AsyncExitStack() as stack:
        watch = HangWatch()
        # One thread for all models: each run has all processors.
        turns = Turns(_threads(1, "inference", watch, stack), watch=watch)
        batchers = {
            model.info.name: Batcher(
                model.embed,
                BatchPolicy(
                    model.info.max_batch_size,
                    settings.bulk_batch_size,
                    run_seconds=max(settings.hang_timeout_seconds, SLOWER * model.info.seconds_per_batch),
                ),
                turns,
                observer.of(model.info.name),
            )
            for model in models
        }
        admission = Admission(
            Limit(settings.max_pending, settings.max_pending_bytes),
            Limit(settings.max_pending_bulk, settings.max_pending_bytes),
            {model.info.name: model.info.seconds_per_image for model in models},
            watch=watch,
        )
        observer.watch([(model.info, batchers[model.info.name]) for model in models], admission)
        images = _images(models, settings, batchers, admission, observer, watch, stack)
        servicer = EmbedderServicer(images, settings.stream_window)
        service = Service(
            embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
            lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
        )
        server = Server([service], settings, DOMAIN, registry)
        for batcher in batchers.values():
            batcher.start()
            stack.push_async_callback(batcher.stop)
        # Closed after the stop of the server: metrics are served until the last call has ended.
        stack.enter_context(metrics.served(registry, settings.metrics_address))
        # They go on while the last calls end.
        deaths = [batcher.died.wait() for batcher in batchers.values()]
        ends = [end_after(death, server) for death in (*deaths, watch.watch())]
        for task in (*ends, memory.give_back_after_work(server.wait_for_progress)):
            stack.callback(asyncio.create_task(task).cancel)
        stack.push_async_callback(server.stop)
        address = await server.start()
        yield address


def _images(
    models: Sequence[Model],
    settings: EmbedderSettings,
    batchers: Mapping[str, Batcher],
    admission: Admission,
    observer: PrometheusObserver,
    watch: HangWatch,
    stack: AsyncExitStack,
) -> EmbedImages:
    """The core, with threads that end with `stack`."""
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    count = settings.decode_threads or models[0].info.threads
    seconds = DECODE_TIMES * settings.hang_timeout_seconds
    threads = {
        lane: DecodeThreads(_threads(count, f"decode-{lane.value}", watch, stack), count, watch, seconds)
        for lane in Lane
    }
    budgets = {lane: PixelBudget(settings.max_decoding_pixels, watch) for lane in Lane}
    pipelines = {
        model.info.name: ModelPipeline(
            model.info,
            {lane: DecodePool(ImageDecoder(model.info.input, limits, budgets[lane]), threads[lane]) for lane in Lane},
            batchers[model.info.name],
            observer.of(model.info.name),
        )
        for model in models
    }
    cache: VectorCache | None = LRUCache(settings.cache_vectors) if settings.cache_vectors else None
    return EmbedImages(pipelines, models[0].info.name, limits, admission, cache, observer)


def _threads(count: int, name: str, watch: HangWatch, stack: AsyncExitStack) -> ThreadPoolExecutor:
    """Return a pool of threads that ends with `stack`, which does not wait for a thread that hangs."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    stack.callback(lambda: pool.shutdown(wait=not watch.hung.is_set(), cancel_futures=True))
    return pool
