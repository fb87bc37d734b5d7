"""Creates the embedder's objects and connects them. No other module does that."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from PIL import Image

from embedder_service.adapters import memory, weights_files
from embedder_service.adapters.model_loading import LoadedModel, LoadOptions, ModelLoader
from embedder_service.adapters.prometheus_observer import PrometheusObserver
from embedder_service.api.servicer import DOMAIN, EmbedderServicer
from embedder_service.core.admission import Admission
from embedder_service.core.batching import Batcher, BatchPolicy
from embedder_service.core.decode_threads import DecodeThreads
from embedder_service.core.embed_images import DecodePool, EmbedImages, ModelPipeline, new_cache
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.inference_slot import InferenceSlot
from embedder_service.core.ports import Model
from embedder_service.core.types import Lane, Limits
from embedder_service.settings import EmbedderSettings
from grpc_kit.server import metrics
from grpc_kit.server.budget import Limit
from grpc_kit.server.grpc_server import Server, Service
from grpc_kit.server.hang_watch import HangWatch
from grpc_kit.server.process import end_after

# A run may take this many times as long as at start, because other processes may use the processors.
MAX_SLOWDOWN = 50
# Decoding an image may take this many times the limit of a run, because both lanes decode while a model runs.
DECODE_TIMEOUT_FACTOR = 10


def load_models(settings: EmbedderSettings) -> list[LoadedModel]:
    """Load the models, verify their vectors, and run each model once with every batch size.

    Raises WeightsError if weights are missing or are not the expected ones, and GoldenError if a model computes wrong
    vectors.
    """
    loader = ModelLoader(
        LoadOptions(
            cache=settings.weights_cache or weights_files.default_cache(),
            files=settings.weights_files,
            sha256=settings.weights_digests,
            precision=settings.precision,
            max_batch_size=settings.max_batch_size,
            threads=settings.threads,
        )
    )
    models = loader.load_all(settings.model_names)
    memory.freeze_loaded_objects()
    return models


@asynccontextmanager
async def serve(models: Sequence[Model], settings: EmbedderSettings) -> AsyncIterator[str]:
    """Serve loaded models in this context, and yield the address, HOST:PORT. The first model is the default.

    At the end, calls in flight are finished. Raises OSError if a port is in use or a TLS file cannot be read.
    """
    # Pillow allocates some images when it opens them. It refuses images of more than twice this many pixels before.
    Image.MAX_IMAGE_PIXELS = settings.max_image_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    # Load all of Pillow's formats now, and not while the first caller waits.
    Image.init()
    memory.unmap_large_blocks()
    registry = metrics.new_registry()
    observer = PrometheusObserver(registry)
    async with AsyncExitStack() as stack:
        watch = HangWatch()
        # One thread for all models, because each run uses all processors.
        slot = InferenceSlot(_threads(1, "inference", watch, stack), watch)
        batchers = {
            model.info.name: Batcher(
                model.run,
                BatchPolicy(
                    model.info.max_batch_size,
                    settings.bulk_batch_size,
                    run_seconds=max(settings.hang_timeout_seconds, MAX_SLOWDOWN * model.info.seconds_per_batch),
                ),
                slot,
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
        servicer = EmbedderServicer(images, settings.stream_window, settings.stream_unread_bytes)
        service = Service(
            embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
            lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
        )
        server = Server([service], settings, DOMAIN, registry)
        for batcher in batchers.values():
            batcher.start()
            stack.push_async_callback(batcher.stop)
        # The stack closes this after the server has stopped, so that metrics are served until the last call has ended.
        stack.enter_context(metrics.served(registry, settings.metrics_address))
        # These tasks run until the last call has ended.
        deaths = [batcher.died.wait() for batcher in batchers.values()]
        ends = [end_after(death, server) for death in (*deaths, watch.watch())]
        for task in (*ends, memory.trim_after_work(server.wait_for_progress)):
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
    """Return the core of the service. Its threads end with `stack`."""
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    count = settings.decode_threads or models[0].info.threads
    seconds = DECODE_TIMEOUT_FACTOR * settings.hang_timeout_seconds
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
    cache = new_cache(settings.cache_vectors) if settings.cache_vectors else None
    return EmbedImages(pipelines, models[0].info.name, limits, admission, cache, observer)


def _threads(count: int, name: str, watch: HangWatch, stack: AsyncExitStack) -> ThreadPoolExecutor:
    """Return a pool of threads that ends with `stack`. The end does not wait for threads that hang."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    stack.callback(lambda: pool.shutdown(wait=not watch.hung.is_set(), cancel_futures=True))
    return pool
