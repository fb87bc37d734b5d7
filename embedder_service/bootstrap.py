"""The one place where the embedder is put together."""

import asyncio
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

from cachetools import LRUCache
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from PIL import Image

from embedder_service.adapters import cpus, memory, precision, weights
from embedder_service.adapters.golden import Golden
from embedder_service.adapters.prometheus_observer import PrometheusObserver
from embedder_service.adapters.tensorflow_model import Vgg16, use_threads
from embedder_service.api.servicer import DOMAIN, EmbedderServicer
from embedder_service.core.admission import Admission, LaneLimit
from embedder_service.core.batching import Batcher, BatchPolicy
from embedder_service.core.embed_images import DecodePool, EmbedImages, ModelPipeline, VectorCache
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.ports import Model
from embedder_service.core.types import Lane, Limits
from embedder_service.settings import EmbedderSettings
from grpc_kit import metrics
from grpc_kit.server import Server, Service


def load_model(settings: EmbedderSettings) -> Vgg16:
    """Loads the network, proves it by golden vectors, and runs it in every batch size.

    Raises WeightsError where its weights are missing or not the expected ones, GoldenError where it gives other vectors
    than it should.
    """
    cache = settings.weights_cache or weights.default_cache()
    path = settings.weights or cache / weights.VGG16.file_name
    tensors = weights.read_verified(path, weights.VGG16, settings.weights_sha256)
    threads = settings.threads or cpus.available()
    use_threads(threads)
    model = precision.choose(
        settings.precision,
        Golden.of(weights.VGG16.model),
        lambda chosen: Vgg16(tensors, chosen, settings.max_batch_size, threads),
    )
    model.warm_up()
    memory.settle()
    return model


@asynccontextmanager
async def serve(model: Model, settings: EmbedderSettings) -> AsyncIterator[str]:
    """Serves a loaded model; gives the address, HOST:PORT. At the end it finishes the calls that it has.

    Raises OSError where a port is taken or a file of TLS cannot be used.
    """
    # Pillow allocates some images as soon as it opens them, and refuses those of twice this many pixels before that.
    Image.MAX_IMAGE_PIXELS = settings.max_image_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    # All of its formats now, and not while the first caller waits.
    Image.init()
    registry = metrics.new_registry()
    observer = PrometheusObserver(registry)
    async with AsyncExitStack() as stack:
        inference = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="inference"))
        policy = BatchPolicy(model.info.max_batch_size, settings.bulk_batch_size)
        batcher = Batcher(model.embed, policy, inference, observer)
        admission = Admission(
            LaneLimit(settings.max_pending, settings.max_pending_bytes),
            LaneLimit(settings.max_pending_bulk, settings.max_pending_bytes),
            model.info.seconds_per_image,
        )
        observer.watch(model.info, batcher, admission)
        images = _images(model, settings, batcher, admission, observer, stack)
        servicer = EmbedderServicer(images, settings.stream_window)
        service = Service(
            embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
            lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
        )
        server = Server([service], settings, DOMAIN, registry)
        batcher.start()
        stack.push_async_callback(batcher.stop)
        stack.push_async_callback(server.stop)
        stack.enter_context(metrics.served(registry, settings.metrics_address))
        address = await server.start()
        for watch in (_report_death(batcher, server), memory.give_back_now_and_then()):
            stack.callback(asyncio.create_task(watch).cancel)
        yield address


def _images(
    model: Model,
    settings: EmbedderSettings,
    batcher: Batcher,
    admission: Admission,
    observer: PrometheusObserver,
    stack: AsyncExitStack,
) -> EmbedImages:
    """The core, with threads that end with `stack`."""
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    threads = settings.decode_threads or model.info.threads
    pools = {
        lane: DecodePool(
            ImageDecoder(model.info.input_size, limits, PixelBudget(settings.max_decoding_pixels)),
            stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix=f"decode-{lane.value}")),
        )
        for lane in Lane
    }
    pipeline = ModelPipeline(model.info, pools, batcher, observer)
    name = model.info.name
    cache: VectorCache | None = LRUCache(settings.cache_vectors) if settings.cache_vectors else None
    return EmbedImages({name: pipeline}, name, limits, admission, cache, observer)


async def _report_death(batcher: Batcher, server: Server) -> None:
    """Reports NOT_SERVING when the batcher dies, so that nobody calls here until the process is restarted."""
    await batcher.died.wait()
    await server.set_serving(serving=False)
