"""The embedder's settings."""

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from grpc_kit.settings import MEBIBYTE, ServerSettings

# Bytes of a message that are not the image.
HEADROOM = 64 * 1024


class EmbedderSettings(ServerSettings):
    """The embedder: VGG16 behind gRPC. Images in, vectors out."""

    model_config = SettingsConfigDict(env_prefix="EMBEDDER_", env_ignore_empty=True)

    listen_address: str = Field(
        default="127.0.0.1:50051",
        description="Address to serve on, HOST:PORT; port 0 takes a free one. Loopback unless told otherwise, because "
        "a server without TLS should not be reachable by accident.",
    )
    weights: Path | None = Field(
        default=None,
        description="File of VGG16 weights. Unset: the one that `python -m embedder_service.weights fetch vgg16` keeps "
        "in EMBEDDER_WEIGHTS_CACHE.",
    )
    weights_sha256: str = Field(
        default="",
        pattern="^([0-9a-f]{64})?$",
        description="Digest of the weights' tensors, as `python -m embedder_service.weights` prints it. Unset: that of "
        "the published ImageNet weights. Set it to serve weights of your own.",
    )
    weights_cache: Path | None = Field(
        default=None, description="Folder for fetched weights. Unset: ~/.cache/imagesearch/weights."
    )
    max_image_bytes: int = Field(
        default=20 * MEBIBYTE,
        gt=0,
        description="Largest encoded image in bytes. 20 MiB is a 50-megapixel JPEG at high quality.",
    )
    max_image_pixels: int = Field(
        default=50_000_000,
        gt=0,
        description="Largest width x height, read from the header before anything is decoded. 50 megapixels take "
        "200 to 800 MB while they are decoded, by the mode of the image.",
    )
    max_batch_size: int = Field(
        default=8,
        ge=1,
        le=256,
        description="Most images in one run of the network. On a CPU a batch of 8 has nearly the throughput of any "
        "larger one, and all of a batch wait for its last image.",
    )
    stream_window: int = Field(
        default=32,
        ge=1,
        description="Images of one EmbedStream that are worked on at a time. More keep a batch full, fewer bound "
        "memory.",
    )
    max_pending: int = Field(
        default=64,
        ge=1,
        description="Most Embed calls under way; one more is refused at once. About as many as are served within the "
        "deadlines of your callers.",
    )
    max_pending_bulk: int = Field(
        default=64, ge=1, description="Most images of all EmbedStream calls under way; further ones are read later."
    )
    decode_threads: int = Field(
        default=2,
        ge=1,
        description="Threads that decode images, for each of the two lanes; one decodes some hundred photographs of "
        "640x480 a second. "
        "Each may hold one decoded image of max_image_pixels.",
    )

    @field_validator("max_image_bytes")
    @classmethod
    def _fits_into_a_message(cls, size: int, info: ValidationInfo) -> int:
        most = info.data.get("max_message_bytes", size + HEADROOM) - HEADROOM
        if size > most:
            raise ValueError(f"should be at most {most}, which is EMBEDDER_MAX_MESSAGE_BYTES less {HEADROOM}")
        return size
