"""Chooses the precision of a network: bfloat16 only if its vectors are right, and with "auto" only if it is faster."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import structlog

from embedder_service.adapters import cpus
from embedder_service.adapters.golden import LEAST_COSINE, Golden, GoldenError, likeness
from embedder_service.core.types import Vectors

log = structlog.stdlib.get_logger()

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]

# The size of the batches that the probe times, where `seconds_per_image` says the most for the least time.
PROBED_BATCH = 2


class Network(Protocol):
    """A network in one precision, with its served models."""

    @property
    def weights_sha256(self) -> str:
        """The digest of the network's weights."""
        ...

    @property
    def precision(self) -> str:
        """The precision."""
        ...

    def golden_vectors(self) -> Vectors:
        """Return the vectors of the golden images, float32[N, D]."""
        ...

    def probe(self) -> Mapping[str, Vectors]:
        """Return the vectors of photographs, float32[N, D], by each served model."""
        ...

    def seconds_per_image(self, batch_size: int) -> float:
        """What one image costs."""
        ...


NetworkType = TypeVar("NetworkType", bound=Network)


def choose(name: str, precision: Precision, golden: Golden, build: Callable[[str], NetworkType]) -> NetworkType:
    """Build the network `name` in the wanted precision; "auto" measures.

    bfloat16 is taken only if the vectors of every served model, with its own head and input, are within the minimum
    cosine of those in float32. With "auto" it must also run faster. The chosen network must give the golden vectors, if
    these are of the same weights. Raises GoldenError.
    """
    exact = _proven(name, build("float32"), golden)
    expected = exact.probe()
    if precision == "float32" or (precision == "auto" and not cpus.have_bfloat16()):
        return exact
    other = build("bfloat16")
    model, cosine = _least_like(other.probe(), expected)
    # False for NaN too.
    is_right = cosine >= LEAST_COSINE["bfloat16"]
    if precision == "bfloat16":
        if not is_right:
            raise GoldenError(
                f"bfloat16 gives other vectors than float32 on this machine: a cosine of {cosine:.6f} by model "
                f"{model}; it must be at least {LEAST_COSINE['bfloat16']}"
            )
        return _proven(name, other, golden)
    seconds = _seconds(exact, other) if is_right else {}
    is_taken = is_right and seconds["bfloat16"] < seconds["float32"]
    log.info(
        "precision probed",
        network=name,
        taken="bfloat16" if is_taken else "float32",
        least_like=model,
        cosine=round(cosine, 6),
        **{f"{each}_ms_per_image": round(value * 1e3, 1) for each, value in seconds.items()},
    )
    if not is_taken:
        return exact
    try:
        return _proven(name, other, golden)
    except GoldenError as error:
        log.warning("float32 is served", why=str(error))
        return exact


def _least_like(found: Mapping[str, Vectors], expected: Mapping[str, Vectors]) -> tuple[str, float]:
    """Return the model whose vectors differ most from the expected ones, and their likeness; NaN is the lowest."""
    with np.errstate(over="ignore", invalid="ignore"):
        least = {model: float(likeness(vectors, expected[model]).min()) for model, vectors in found.items()}
    worst = min(least, key=lambda model: -math.inf if math.isnan(least[model]) else least[model])
    return worst, least[worst]


def _seconds(*networks: Network) -> dict[str, float]:
    for network in networks:
        # oneDNN plans a batch size in its first run.
        network.seconds_per_image(PROBED_BATCH)
    return {network.precision: network.seconds_per_image(PROBED_BATCH) for network in networks}


def _proven(name: str, network: NetworkType, golden: Golden) -> NetworkType:
    if network.weights_sha256 != golden.weights_sha256:
        if network.precision == "float32":
            log.warning("no golden vectors for these weights: the network is served unproven", network=name)
        return network
    golden.check(network.golden_vectors(), network.precision)
    return network
