"""The embedder's settings."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from embedder_service.core.model_names import EncoderName, ModelName, parse_model_name, weights_name_of
from embedder_service.core.types import MAX_BATCH_SIZE
from grpc_kit.server.settings import MEBIBYTE, ServerSettings

# Bytes of a message that are not part of the image.
HEADROOM = 64 * 1024
# NAME=VALUE: a file or a digest for the weights of this name.
ENTRY = re.compile(r"([A-Za-z0-9_-]+)\s*=\s*(.+)", re.DOTALL)
SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class EmbedderSettings(ServerSettings):
    """Settings of the embedder, the gRPC service that turns images into vectors."""

    model_config = SettingsConfigDict(env_prefix="EMBEDDER_", env_ignore_empty=True)

    listen_address: str = Field(
        default="127.0.0.1:50051",
        description="Address to serve on, HOST:PORT. Port 0 chooses a free port. The default is loopback, because a "
        "server without TLS should not be reachable by accident.",
    )
    models: str = Field(
        default="vgg16",
        description="The models to serve, separated by commas. The first is the default model. A name is "
        "NETWORK[-HEAD][-INPUT[SIDE]][-raw], such as vgg16, vgg16-gem, mobilenet-pad, vgg16-rmac-native512, or "
        "NAME=FOLDER for an encoder in a folder: an ONNX graph with its preprocessor_config.json, or what "
        "`imagesearch train-autoencoder` wrote. Case and spaces around a name do not matter. "
        "docs/guides/models.md lists the names.",
    )
    weights: str = Field(
        default="",
        description="Weights file of the first model, or NAME=FILE for several models, separated by commas. Unset: the "
        "file that `python -m embedder_service.weights fetch NAME` stored in EMBEDDER_WEIGHTS_CACHE.",
    )
    weights_sha256: str = Field(
        default="",
        description="Expected digest of the tensors of the first model's weights, as "
        "`python -m embedder_service.weights` prints it, or NAME=DIGEST for several models. Unset: the digest of the "
        "published ImageNet weights. Set it to serve weights of your own.",
    )
    weights_cache: Path | None = Field(
        default=None, description="Folder of fetched weights. Unset: ~/.cache/imagesearch/weights."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Precision of the backbones. `auto` uses bfloat16 if the processors have it (AVX512_BF16 or AMX) "
        "and a test at start shows that it is faster and that each model's vectors have a cosine of at least 0.999 "
        "with float32. bfloat16 has about twice the throughput. With `bfloat16` the embedder does not start if the "
        "vectors fail the test. Encoders of your own always compute in float32.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads for a run of a model. Unset: the number of processors that affinity and the container's "
        "CPU quota allow, rounded up.",
    )
    max_image_bytes: int = Field(
        default=20 * MEBIBYTE,
        gt=0,
        description="Maximum bytes of an encoded image. 20 MiB is a 50-megapixel JPEG at high quality.",
    )
    max_image_pixels: int = Field(
        default=50_000_000,
        gt=0,
        description="Maximum width x height of an image, checked before it is decoded. 50 megapixels use 200 to 1,100 "
        "MB while they are decoded, depending on the format and mode of the image.",
    )
    max_batch_size: int = Field(
        default=8,
        ge=1,
        le=MAX_BATCH_SIZE,
        description="Maximum number of images in a batch. On a CPU a batch of 8 has 99 % of the throughput of 16. All "
        "images wait for the whole batch. At start each batch size is run once.",
    )
    bulk_batch_size: int = Field(
        default=2,
        ge=1,
        description="Maximum number of EmbedStream images in a batch while Embed calls arrive, and for 10 s after the "
        "last one. An Embed call waits for the batch that runs. A batch of 2 has 95 % of the throughput of 8, in a "
        "quarter of the time. Without Embed calls EMBEDDER_MAX_BATCH_SIZE applies.",
    )
    stream_window: int = Field(
        default=32,
        ge=1,
        description="Maximum number of images in flight of one EmbedStream call. More images fill batches; fewer need "
        "less memory.",
    )
    stream_unread_bytes: int = Field(
        default=3 * MEBIBYTE // 2,
        ge=1,
        description="Bytes of pending and unread responses of one EmbedStream call. While there are more, no further "
        "image of the stream starts. An image with regions has a vector for each.",
    )
    max_pending: int = Field(
        default=64,
        ge=1,
        description="Maximum number of Embed calls in flight for each model; further calls are refused at once. Set "
        "it to about the number of images that the embedder serves within the deadlines of your callers.",
    )
    max_pending_bulk: int = Field(
        default=64,
        ge=1,
        description="Maximum number of images of all EmbedStream calls in flight for each model; further images are "
        "read later.",
    )
    max_pending_bytes: int = Field(
        default=256 * MEBIBYTE,
        ge=1,
        description="Maximum bytes of encoded images in memory, of all models together, for Embed calls and for "
        "EmbedStream calls each. Above the limit, Embed calls are refused and EmbedStream calls wait. An image counts "
        "until it is decoded, even after its caller has left. Models with calls in the last 10 s have equal shares. "
        "A model without images in memory may exceed its share with one image.",
    )
    decode_threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads that decode images, for each of the two lanes. A thread decodes some hundred photographs "
        "of 640x480 a second. A free thread goes to the model that got one longest ago. Unset: EMBEDDER_THREADS.",
    )
    max_decoding_pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="Maximum number of pixels that are decoded at a time, for Embed calls and for EmbedStream calls "
        "each. Further images wait. It must be at least EMBEDDER_MAX_IMAGE_PIXELS. A pixel uses up to 22 bytes. A "
        "large JPEG is scaled while it is decoded. It counts with its scaled size, unless it is progressive or has a "
        "scan for each component.",
    )
    hang_timeout_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds after which a run of a model counts as hung; 50 times the seconds of a full batch at "
        "start if that is longer. Decoding an image counts as hung after 10 times this setting. If a thread hangs, the "
        "embedder logs its stack, refuses every image with WORKER_DIED, and fails its liveness probe, so that it is "
        "restarted.",
    )
    cache_vectors: int = Field(
        default=0,
        ge=0,
        description="Maximum number of cached vectors, also those of regions. The least recently used image is dropped "
        "first. A vector uses 4 bytes per component and about 1 KB. 0 disables the cache. Equal images that are in "
        "flight together are always embedded only once.",
    )

    @field_validator("models")
    @classmethod
    def _are_models(cls, text: str) -> str:
        names = [parse_model_name(part).text for part in _parts(text)]
        if not names:
            raise ValueError("must name a model, such as vgg16")
        if twice := {name for name in names if names.count(name) > 1}:
            spellings = [part for part, name in zip(_parts(text), names, strict=True) if name == min(twice)]
            raise ValueError(f"{' and '.join(spellings)} are the same model, {min(twice)}; name it once")
        return text

    @field_validator("weights", "weights_sha256")
    @classmethod
    def _are_of_models(cls, text: str, info: ValidationInfo) -> str:
        if "models" in info.data:
            _by_weights(text, info.data["models"])
        return text

    @field_validator("weights_sha256")
    @classmethod
    def _are_digests(cls, text: str) -> str:
        for part in _parts(text):
            found = ENTRY.fullmatch(part)
            if not SHA256.fullmatch(found[2] if found else part):
                raise ValueError("must be 64 hexadecimal digits, or NAME=DIGEST, separated by commas")
        return text

    @property
    def model_names(self) -> Sequence[ModelName | EncoderName]:
        """The models to serve. The first is the default model."""
        return _models(self.models)

    @property
    def weights_files(self) -> dict[str, Path]:
        """Weights files by the names of weights."""
        return {name: Path(value) for name, value in _by_weights(self.weights, self.models).items()}

    @property
    def weights_digests(self) -> dict[str, str]:
        """Expected digests by the names of weights."""
        return {name: digest.lower() for name, digest in _by_weights(self.weights_sha256, self.models).items()}

    @field_validator("max_decoding_pixels")
    @classmethod
    def _holds_the_largest_image(cls, pixels: int, info: ValidationInfo) -> int:
        minimum = info.data.get("max_image_pixels", pixels)
        if pixels < minimum:
            raise ValueError(f"must be at least EMBEDDER_MAX_IMAGE_PIXELS, {minimum}")
        return pixels

    @field_validator("max_image_bytes")
    @classmethod
    def _fits_into_a_message(cls, size: int, info: ValidationInfo) -> int:
        maximum = info.data.get("max_message_bytes", size + HEADROOM) - HEADROOM
        if size > maximum:
            raise ValueError(f"must be at most {maximum}, which is EMBEDDER_MAX_MESSAGE_BYTES minus {HEADROOM}")
        return size


def _by_weights(text: str, models: str) -> dict[str, str]:
    """Return the values of a setting by the names of weights. A value without a name is for the first model.

    Raises ValueError.
    """
    served = list(dict.fromkeys(name.weights for name in _models(models) if isinstance(name, ModelName)))
    values: dict[str, str] = {}
    for part in _parts(text):
        entry = ENTRY.fullmatch(part)
        if not entry and not served:
            raise ValueError(f"{part!r} is for none of EMBEDDER_MODELS: the weights of encoders are in their folders")
        name, value = (weights_name_of(entry[1]), entry[2]) if entry else (served[0], part)
        if name in values:
            raise ValueError(f"it has two values for {name}; use NAME=VALUE to name the weights of each value")
        values[name] = value
    return values


def _models(text: str) -> list[ModelName | EncoderName]:
    return [parse_model_name(part) for part in _parts(text)]


def _parts(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(",")) if part]
