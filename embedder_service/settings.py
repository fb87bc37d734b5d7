"""The embedder's settings."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from embedder_service.core.model_names import EncoderName, ModelName, parse, weights_of
from grpc_kit.server.settings import MEBIBYTE, ServerSettings

# Bytes of a message that are not the image.
HEADROOM = 64 * 1024
# A file or a digest for each name of weights: NAME=VALUE, separated by commas.
ENTRY = re.compile(r"([A-Za-z0-9_-]+)\s*=\s*(.+)", re.DOTALL)
SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class EmbedderSettings(ServerSettings):
    """The embedder: networks behind gRPC. Images in, vectors out."""

    model_config = SettingsConfigDict(env_prefix="EMBEDDER_", env_ignore_empty=True)

    listen_address: str = Field(
        default="127.0.0.1:50051",
        description="Address to serve on, HOST:PORT; port 0 takes a free one. Loopback unless told otherwise, because "
        "a server without TLS should not be reachable by accident.",
    )
    models: str = Field(
        default="vgg16",
        description="The models to serve, separated by commas; the first answers where a request names none. "
        "NETWORK[-HEAD][-INPUT[SIDE]][-raw], such as vgg16, vgg16-gem, mobilenet-pad, vgg16-rmac-native512, or "
        "NAME=FOLDER for an encoder of `imagesearch train-autoencoder`. The case of a name "
        "and spaces around it do not matter. docs/guides/models.md lists the names.",
    )
    weights: str = Field(
        default="",
        description="File of weights of the first model, or NAME=FILE for several, separated by commas. Unset: those "
        "that `python -m embedder_service.weights fetch NAME` keeps in EMBEDDER_WEIGHTS_CACHE.",
    )
    weights_sha256: str = Field(
        default="",
        description="Digest of the weights' tensors, as `python -m embedder_service.weights` prints it, of the first "
        "model's, or NAME=DIGEST for several. Unset: that of the published ImageNet weights. Set it to serve weights "
        "of your own.",
    )
    weights_cache: Path | None = Field(
        default=None, description="Folder for fetched weights. Unset: ~/.cache/imagesearch/weights."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Precision of the network. auto takes bfloat16 if the processors have it (AVX512_BF16 or AMX) "
        "and a test at start shows that it is faster and keeps the vectors of every served model within a cosine of "
        "0.999 of float32. bfloat16 has about twice the throughput. With bfloat16 the embedder does not start if the "
        "vectors fail that test. Encoders of your own always compute in float32.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads that a run of the network may use. Unset: the processors that this process may use, by "
        "affinity and by the container's CPU quota, rounded up.",
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
        "200 to 1,100 MB while they are decoded, by the format and mode of the image.",
    )
    max_batch_size: int = Field(
        default=8,
        ge=1,
        le=32,
        description="Most images in one run of the network. On a CPU a batch of 8 has 99 % of the throughput of 16, "
        "and all of a batch wait for its last image. Every size up to this is run once before the service is ready.",
    )
    bulk_batch_size: int = Field(
        default=2,
        ge=1,
        description="Most EmbedStream images in one run while Embed calls come, and for 10 s after the last one: "
        "a call that comes waits for the whole run. A batch of 2 has 95 % of the throughput at a quarter of the time "
        "of 8. Without Embed calls EMBEDDER_MAX_BATCH_SIZE counts.",
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
        description="Maximum number of Embed calls in flight for each model; further calls are refused at once. Set "
        "it to about as many as the embedder serves within the deadlines of your callers.",
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
        "EmbedStream calls each. Above it, Embed calls are refused and EmbedStream calls wait. An image counts until "
        "it is decoded, even after its caller has left. Models that had callers in the last 10 s have equal shares. "
        "A model without images in memory may exceed its share with one image.",
    )
    decode_threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads that decode images, for each of the two lanes; one decodes some hundred photographs of "
        "640x480 a second. Models take turns for the threads. Unset: as many as EMBEDDER_THREADS.",
    )
    max_decoding_pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="Maximum number of pixels that are decoded at a time, for Embed calls and for EmbedStream calls "
        "each; further images wait. At least EMBEDDER_MAX_IMAGE_PIXELS. A pixel takes up to 22 bytes. A large JPEG "
        "is scaled while it is decoded, and counts with its scaled size unless it is progressive or has a scan for "
        "each component.",
    )
    hang_timeout_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds after which a run of a network counts as hung. The limit of a run is 50 times the time "
        "of a full batch at start if that is longer. The limit of decoding an image is 10 times this setting. If a "
        "thread hangs, the embedder logs where, refuses every image with WORKER_DIED, and fails its liveness probe "
        "so that it is restarted.",
    )
    cache_vectors: int = Field(
        default=0,
        ge=0,
        description="Vectors kept for images that come again, the least recently used dropped first; each takes 4 "
        "bytes a component and about 1 KB. 0 keeps none. Equal images that come at the same time are embedded "
        "once in any case.",
    )

    @field_validator("models")
    @classmethod
    def _are_models(cls, text: str) -> str:
        names = [parse(part).text for part in _parts(text)]
        if not names:
            raise ValueError("should name a model, such as vgg16")
        if twice := {name for name in names if names.count(name) > 1}:
            spellings = [part for part, name in zip(_parts(text), names, strict=True) if name == min(twice)]
            raise ValueError(f"{' and '.join(spellings)} are one model, {min(twice)}; name it once")
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
                raise ValueError("should be 64 hexadecimal digits, or NAME=DIGEST, separated by commas")
        return text

    @property
    def model_names(self) -> Sequence[ModelName | EncoderName]:
        """The models to serve; the first is the default one."""
        return _models(self.models)

    @property
    def weights_files(self) -> dict[str, Path]:
        """Files of weights, by the weights' names."""
        return {name: Path(value) for name, value in _by_weights(self.weights, self.models).items()}

    @property
    def weights_digests(self) -> dict[str, str]:
        """Digests of weights, by the weights' names."""
        return {name: digest.lower() for name, digest in _by_weights(self.weights_sha256, self.models).items()}

    @field_validator("max_decoding_pixels")
    @classmethod
    def _holds_the_largest_image(cls, pixels: int, info: ValidationInfo) -> int:
        least = info.data.get("max_image_pixels", pixels)
        if pixels < least:
            raise ValueError(f"should be at least EMBEDDER_MAX_IMAGE_PIXELS, {least}")
        return pixels

    @field_validator("max_image_bytes")
    @classmethod
    def _fits_into_a_message(cls, size: int, info: ValidationInfo) -> int:
        most = info.data.get("max_message_bytes", size + HEADROOM) - HEADROOM
        if size > most:
            raise ValueError(f"should be at most {most}, which is EMBEDDER_MAX_MESSAGE_BYTES less {HEADROOM}")
        return size


def _by_weights(text: str, models: str) -> dict[str, str]:
    """What is given for each name of weights, the first model's where there is no name. Raises ValueError."""
    served = list(dict.fromkeys(name.weights for name in _models(models) if isinstance(name, ModelName)))
    values: dict[str, str] = {}
    for part in _parts(text):
        entry = ENTRY.fullmatch(part)
        if not entry and not served:
            raise ValueError(f"{part!r} is for none of EMBEDDER_MODELS: encoders have theirs in their folders")
        name, value = (weights_of(entry[1]), entry[2]) if entry else (served[0], part)
        if name in values:
            raise ValueError(f"there are two for {name}; NAME=VALUE says whose each is")
        values[name] = value
    return values


def _models(text: str) -> list[ModelName | EncoderName]:
    return [parse(part) for part in _parts(text)]


def _parts(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(",")) if part]
