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
from grpc_kit import metrics
from grpc_kit.budget import Limit
from grpc_kit.server import Server, Service


def load_models(settings: EmbedderSettings) -> list[TensorflowModel]:
    """Loads the models, proves their networks by golden vectors, and runs each in every batch size.

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
    models = [loader.load(name) for name in settings.model_names]
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
        # One thread for all models: each run has all processors.
        turns = Turns(stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="inference")))
        batchers = {
            model.info.name: Batcher(
                model.embed,
                BatchPolicy(model.info.max_batch_size, settings.bulk_batch_size),
                turns,
                observer.of(model.info.name),
            )
            for model in models
        }
        admission = Admission(
            Limit(settings.max_pending, settings.max_pending_bytes),
            Limit(settings.max_pending_bulk, settings.max_pending_bytes),
            {model.info.name: model.info.seconds_per_image for model in models},
        )
        observer.watch([(model.info, batchers[model.info.name]) for model in models], admission)
        images = _images(models, settings, batchers, admission, observer, stack)
        servicer = EmbedderServicer(images, settings.stream_window)
        service = Service(
            embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
            lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
        )
        server = Server([service], settings, DOMAIN, registry)
        for batcher in batchers.values():
            batcher.start()
            stack.push_async_callback(batcher.stop)
        stack.push_async_callback(server.stop)
        stack.enter_context(metrics.served(registry, settings.metrics_address))
        address = await server.start()
        deaths = (_report_death(batcher, server) for batcher in batchers.values())
        for watch in (*deaths, memory.give_back_now_and_then()):
            stack.callback(asyncio.create_task(watch).cancel)
        yield address


def _images(
    models: Sequence[Model],
    settings: EmbedderSettings,
    batchers: Mapping[str, Batcher],
    admission: Admission,
    observer: PrometheusObserver,
    stack: AsyncExitStack,
) -> EmbedImages:
    """The core, with threads that end with `stack`."""
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    count = settings.decode_threads or models[0].info.threads
    threads = {
        lane: DecodeThreads(
            stack.enter_context(ThreadPoolExecutor(count, thread_name_prefix=f"decode-{lane.value}")), count
        )
        for lane in Lane
    }
    budgets = {lane: PixelBudget(settings.max_decoding_pixels) for lane in Lane}
    pipelines = {
        model.info.name: ModelPipeline(
            model.info,
            {lane: DecodePool(ImageDecoder(model.info.input, limits, budgets[lane]), threads[lane]) for lane in Lane},
            batchers[model.info.name],
            observer,
        )
        for model in models
    }
    cache: VectorCache | None = LRUCache(settings.cache_vectors) if settings.cache_vectors else None
    return EmbedImages(pipelines, models[0].info.name, limits, admission, cache, observer)


async def _report_death(batcher: Batcher, server: Server) -> None:
    """Reports it when the batcher dies, so that nobody calls here and the process is restarted."""
    await batcher.died.wait()
    await server.report_dead()
