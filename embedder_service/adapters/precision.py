"""Chooses the precision of a backbone: bfloat16 only if the vectors are right, and with "auto" only if it is faster."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import structlog

from embedder_service.adapters import cpus
from embedder_service.adapters.golden_vectors import MIN_COSINE, GoldenError, GoldenVectors, similarity
from embedder_service.core.types import Vectors

log = structlog.stdlib.get_logger()

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]

# Size of the timed batches. Larger batches take longer and do not change the choice.
PROBED_BATCH_SIZE = 2


class Candidate(Protocol):
    """A backbone in one precision, with its models."""

    @property
    def weights_sha256(self) -> str:
        """The digest of the backbone's weights."""
        ...

    @property
    def precision(self) -> str:
        """The precision of the backbone."""
        ...

    def golden_vectors(self) -> Vectors:
        """Return the vectors of the golden images, float32[N, D]."""
        ...

    def probe(self) -> Mapping[str, Vectors]:
        """Return the vectors of photographs, float32[N, D], by each model."""
        ...

    def seconds_per_image(self, batch_size: int) -> float:
        """Return the seconds per image in batches of this size."""
        ...


CandidateType = TypeVar("CandidateType", bound=Candidate)


def choose(
    name: str, precision: Precision, golden: GoldenVectors, build: Callable[[str], CandidateType]
) -> CandidateType:
    """Return the backbone of the weights `name` in this precision; "auto" measures.

    bfloat16 is chosen only if each model's vectors have at least the minimum cosine with its float32 vectors. With
    "auto" it must also be faster. The chosen backbone must reproduce the golden vectors if these are of the same
    weights. Raises GoldenError.
    """
    float32 = _verified(name, build("float32"), golden)
    expected = float32.probe()
    if precision == "float32" or (precision == "auto" and not cpus.have_bfloat16()):
        return float32
    bfloat16 = build("bfloat16")
    model, cosine = _least_similar(bfloat16.probe(), expected)
    # NaN is not right either.
    is_right = cosine >= MIN_COSINE["bfloat16"]
    if precision == "bfloat16":
        if not is_right:
            raise GoldenError(
                f"bfloat16 and float32 vectors differ on this machine: their cosine is {cosine:.6f} with model "
                f"{model}; it must be at least {MIN_COSINE['bfloat16']}"
            )
        return _verified(name, bfloat16, golden)
    seconds = _seconds(float32, bfloat16) if is_right else {}
    is_chosen = is_right and seconds["bfloat16"] < seconds["float32"]
    log.info(
        "precision probed",
        network=name,
        chosen="bfloat16" if is_chosen else "float32",
        least_similar=model,
        cosine=round(cosine, 6),
        **{f"{each}_ms_per_image": round(value * 1e3, 1) for each, value in seconds.items()},
    )
    if not is_chosen:
        return float32
    try:
        return _verified(name, bfloat16, golden)
    except GoldenError as error:
        log.warning("float32 is served", reason=str(error))
        return float32


def _least_similar(found: Mapping[str, Vectors], expected: Mapping[str, Vectors]) -> tuple[str, float]:
    """Return the model with the lowest similarity to the expected vectors, and the similarity. NaN is the lowest."""
    with np.errstate(over="ignore", invalid="ignore"):
        lowest = {model: float(similarity(vectors, expected[model]).min()) for model, vectors in found.items()}
    worst = min(lowest, key=lambda model: -math.inf if math.isnan(lowest[model]) else lowest[model])
    return worst, lowest[worst]


def _seconds(*candidates: Candidate) -> dict[str, float]:
    for candidate in candidates:
        # The first run of a batch size includes oneDNN's planning.
        candidate.seconds_per_image(PROBED_BATCH_SIZE)
    return {candidate.precision: candidate.seconds_per_image(PROBED_BATCH_SIZE) for candidate in candidates}


def _verified(name: str, candidate: CandidateType, golden: GoldenVectors) -> CandidateType:
    if candidate.weights_sha256 != golden.weights_sha256:
        if candidate.precision == "float32":
            log.warning("no golden vectors for these weights: the model is served without this check", network=name)
        return candidate
    golden.check(candidate.golden_vectors(), candidate.precision)
    return candidate
