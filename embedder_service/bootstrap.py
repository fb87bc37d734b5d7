"""The one place where the embedder is put together."""

import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from PIL import Image

from embedder_service.adapters import weights
from embedder_service.adapters.tensorflow_model import Vgg16
from embedder_service.api.servicer import DOMAIN, EmbedderServicer
from embedder_service.core.batching import Batcher
from embedder_service.core.embed_images import Admission, EmbedImages, ModelPipeline
from embedder_service.core.image_decoding import ImageDecoder
from embedder_service.core.ports import Model
from embedder_service.core.types import Lane, Limits
from embedder_service.settings import EmbedderSettings
from grpc_kit.server import Server, Service


def load_model(settings: EmbedderSettings) -> Vgg16:
    """Loads the network. Raises WeightsError where its weights are missing or not the expected ones."""
    cache = settings.weights_cache or weights.default_cache()
    path = settings.weights or cache / weights.VGG16.file_name
    tensors = weights.read_verified(path, weights.VGG16, settings.weights_sha256)
    return Vgg16(tensors, settings.max_batch_size)


@asynccontextmanager
async def serve(model: Model, settings: EmbedderSettings) -> AsyncIterator[str]:
    """Serves a loaded model; gives the address, HOST:PORT. At the end it finishes the calls that it has."""
    limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
    # Pillow allocates some images as soon as it opens them, and refuses those of twice this many pixels before that.
    Image.MAX_IMAGE_PIXELS = settings.max_image_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with (
        ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode") as decoders,
        ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode-bulk") as bulk_decoders,
        ThreadPoolExecutor(1, thread_name_prefix="inference") as inference,
    ):
        batcher = Batcher(model.embed, model.info.max_batch_size, inference)
        pools = {Lane.INTERACTIVE: decoders, Lane.BULK: bulk_decoders}
        pipeline = ModelPipeline(model.info, ImageDecoder(model.info.input_size, limits), pools, batcher)
        admission = Admission(settings.max_pending, settings.max_pending_bulk)
        images = EmbedImages({model.info.name: pipeline}, model.info.name, limits, admission)
        servicer = EmbedderServicer(images, settings.stream_window)
        service = Service(
            embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"],
            lambda server: embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server),
        )
        server = Server([service], settings, DOMAIN)
        batcher.start()
        try:
            yield await server.start()
        finally:
            await server.stop()
            await batcher.stop()
