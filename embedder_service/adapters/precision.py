"""Chooses what a network computes in: bfloat16 only where it is faster here, and right."""

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias, TypeVar

import structlog

from embedder_service.adapters import cpus
from embedder_service.adapters.golden import LEAST_COSINE, Golden, GoldenError, cosines
from embedder_service.core.types import ModelInfo, Pixels, Vectors

log = structlog.stdlib.get_logger()

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]

# The size of the batches that the probe times, where `seconds_per_image` says the most for the least time.
PROBED_BATCH = 2


class Network(Protocol):
    """A network that can be timed."""

    @property
    def info(self) -> ModelInfo:
        """What it does."""
        ...

    def embed(self, pixels: Pixels) -> Vectors:
        """Embeds uint8[N, H, W, 3] as float32[N, D]."""
        ...

    def seconds_per_image(self, batch_size: int) -> float:
        """What one image costs."""
        ...


NetworkType = TypeVar("NetworkType", bound=Network)


def choose(precision: Precision, golden: Golden, build: Callable[[str], NetworkType]) -> NetworkType:
    """Builds the network in the precision that is asked for; "auto" measures.

    "auto" takes bfloat16 where the processors have it, a batch runs faster, and its vectors are within the least cosine
    of float32's. Whatever is taken has to give the golden vectors, where they are of the same weights. Raises
    GoldenError.
    """
    if precision != "auto":
        return _proven(build(precision), golden)
    network = _proven(build("float32"), golden)
    if not cpus.have_bfloat16():
        return network
    other = build("bfloat16")
    cosine = float(cosines(other.embed(golden.pixels), network.embed(golden.pixels)).min())
    for each in (network, other):
        # The first run of a size plans it.
        each.seconds_per_image(PROBED_BATCH)
    seconds = {each.info.precision: each.seconds_per_image(PROBED_BATCH) for each in (network, other)}
    accepted = cosine >= LEAST_COSINE["bfloat16"] and seconds["bfloat16"] < seconds["float32"]
    log.info(
        "precision probed",
        network=network.info.network,
        taken="bfloat16" if accepted else "float32",
        cosine=round(cosine, 6),
        **{f"{name}_ms_per_image": round(value * 1e3, 1) for name, value in seconds.items()},
    )
    if not accepted:
        return network
    try:
        return _proven(other, golden)
    except GoldenError as error:
        log.warning("float32 is served", why=str(error))
        return network


def _proven(network: NetworkType, golden: Golden) -> NetworkType:
    if network.info.weights_sha256 != golden.weights_sha256:
        log.warning("no golden vectors for these weights: the network is served unproven", network=network.info.network)
        return network
    golden.check(network.embed(golden.pixels), network.info.precision)
    return network
