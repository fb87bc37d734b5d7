"""The choice of the precision, with small fake models; and the golden vectors."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embedder_service.adapters import cpus, precision
from embedder_service.adapters.golden_vectors import GoldenError, GoldenVectors, cosines, similarity
from embedder_service.adapters.precision import PROBED_BATCH_SIZE, Precision
from embedder_service.adapters.weights_files import VGG16
from embedder_service.core.types import Pixels, Vectors

WEIGHTS = "0" * 64
SIZE, DIMENSION = 4, 32
CHANCE = np.random.default_rng(0)
PIXELS: Pixels = CHANCE.integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
KERNEL: Vectors = CHANCE.normal(0, 1, (SIZE * SIZE * 3, DIMENSION)).astype(np.float32)


def float32(pixels: Pixels) -> Vectors:
    """A layer, and unit length."""
    vectors: Vectors = pixels.reshape(len(pixels), -1).astype(np.float32) @ KERNEL
    return unit(vectors)


def bfloat16(pixels: Pixels) -> Vectors:
    """The same, of weights and inputs of eight bits."""
    values = pixels.reshape(len(pixels), -1).astype(np.float32)
    vectors: Vectors = rounded(values) @ rounded(KERNEL)
    return unit(vectors)


def rounded(values: Vectors) -> Vectors:
    bits = (values.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def unit(vectors: Vectors) -> Vectors:
    lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    quotients: Vectors = vectors / lengths
    return quotients


def turned(cosine: float) -> Callable[[Pixels], Vectors]:
    """A network whose vectors have this cosine with the right ones."""

    def embed(pixels: Pixels) -> Vectors:
        right = float32(pixels).astype(np.float64)
        across = np.roll(right, 1, axis=1)
        across -= (across * right).sum(axis=1, keepdims=True) * right
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        vectors: NDArray[np.float64] = cosine * right + (1 - cosine**2) ** 0.5 * across
        return vectors.astype(np.float32)

    return embed


def one_wrong(pixels: Pixels) -> Vectors:
    """Right but for the last image."""
    vectors = float32(pixels)
    vectors[-1] = vectors[0]
    return vectors


def not_numbers(pixels: Pixels) -> Vectors:
    return float32(pixels) * np.float32(np.nan)


def one_not_a_number(pixels: Pixels) -> Vectors:
    vectors = float32(pixels)
    vectors[1, 5] = np.nan
    return vectors


def zeros(pixels: Pixels) -> Vectors:
    return float32(pixels) * np.float32(0)


class Network:
    """A network with a cost that the test states: of the first run, and of later ones."""

    def __init__(
        self,
        precision: str,
        models: Mapping[str, Callable[[Pixels], Vectors]],
        seconds: tuple[float, float],
        weights_sha256: str,
    ) -> None:
        self.precision = precision
        self.weights_sha256 = weights_sha256
        self.timed: list[int] = []
        self._models = models
        self._seconds = seconds

    def golden_vectors(self) -> Vectors:
        return self._models["layer"](PIXELS)

    def probe(self) -> Mapping[str, Vectors]:
        return {name: embed(PIXELS) for name, embed in self._models.items()}

    def seconds_per_image(self, batch_size: int) -> float:
        self.timed.append(batch_size)
        return self._seconds[min(len(self.timed), 2) - 1]


class Factory:
    """Builds networks of either precision."""

    def __init__(self) -> None:
        self.networks: dict[str, Callable[[Pixels], Vectors]] = {"float32": float32, "bfloat16": bfloat16}
        # The models that are served beside "layer".
        self.others: dict[str, dict[str, Callable[[Pixels], Vectors]]] = {"float32": {}, "bfloat16": {}}
        self.seconds = {"float32": (1.0, 1.0), "bfloat16": (0.5, 0.5)}
        self.weights_sha256 = WEIGHTS
        self.built: list[Network] = []

    def __call__(self, name: str) -> Network:
        models = {"layer": self.networks[name], **self.others[name]}
        self.built.append(Network(name, models, self.seconds[name], self.weights_sha256))
        return self.built[-1]

    def names(self) -> list[str]:
        return [network.precision for network in self.built]


class Log:
    """Stands for the module's log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append(("info", event, facts))

    def warning(self, event: str, **facts: Any) -> None:
        self.lines.append(("warning", event, facts))

    def warnings(self) -> list[str]:
        return [event for level, event, _ in self.lines if level == "warning"]


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(precision, "log", log)
    return log


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.fixture
def golden() -> GoldenVectors:
    return GoldenVectors(PIXELS, float32(PIXELS), WEIGHTS)


@pytest.fixture
def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "have_bfloat16", lambda: True)


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "have_bfloat16", lambda: False)


def test_the_fake_models_have_the_stated_similarity() -> None:
    right = float32(PIXELS)
    assert 0.9999 < cosines(bfloat16(PIXELS), right).min() < 1
    assert cosines(turned(0.9985)(PIXELS), right) == pytest.approx([0.9985] * 3, abs=1e-6)


@pytest.mark.usefixtures("with_bfloat16")
def test_auto_chooses_bfloat16_if_it_is_supported_faster_and_right(
    factory: Factory, golden: GoldenVectors, log: Log
) -> None:
    assert precision.choose("net", "auto", golden, factory).precision == "bfloat16"
    ((level, event, facts),) = log.lines
    assert (level, event, facts["chosen"]) == ("info", "precision probed", "bfloat16")
    assert (facts["float32_ms_per_image"], facts["bfloat16_ms_per_image"]) == (1000.0, 500.0)


@pytest.mark.usefixtures("without_bfloat16")
def test_auto_does_not_build_bfloat16_without_processor_support(factory: Factory, golden: GoldenVectors) -> None:
    assert precision.choose("net", "auto", golden, factory).precision == "float32"
    assert factory.names() == ["float32"]
    assert factory.built[0].timed == []


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize(("seconds", "chosen"), [(0.99, "bfloat16"), (1.0, "float32"), (2.0, "float32")])
def test_auto_chooses_bfloat16_only_if_it_is_faster(
    factory: Factory, golden: GoldenVectors, log: Log, seconds: float, chosen: str
) -> None:
    factory.seconds["bfloat16"] = (seconds, seconds)
    assert precision.choose("net", "auto", golden, factory).precision == chosen
    assert log.lines[0][2]["chosen"] == chosen


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize(
    ("first", "later", "chosen"), [((1.0, 9.0), (1.0, 0.5), "bfloat16"), ((9.0, 0.1), (1.0, 2.0), "float32")]
)
def test_the_first_run_of_a_size_does_not_count(
    factory: Factory, golden: GoldenVectors, first: tuple[float, float], later: tuple[float, float], chosen: str
) -> None:
    for number, name in enumerate(("float32", "bfloat16")):
        factory.seconds[name] = (first[number], later[number])
    assert precision.choose("net", "auto", golden, factory).precision == chosen
    assert [network.timed for network in factory.built] == [[PROBED_BATCH_SIZE] * 2] * 2


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize(
    ("network", "chosen"),
    [
        pytest.param(turned(0.9995), "bfloat16", id="0.9995"),
        pytest.param(turned(0.9991), "bfloat16", id="0.9991"),
        pytest.param(turned(0.9989), "float32", id="0.9989"),
        pytest.param(turned(-1.0), "float32", id="the other way round"),
        pytest.param(one_wrong, "float32", id="one of three"),
        pytest.param(not_numbers, "float32", id="not numbers"),
        pytest.param(one_not_a_number, "float32", id="one not a number"),
    ],
)
def test_auto_chooses_bfloat16_only_if_its_vectors_match_float32(
    factory: Factory, golden: GoldenVectors, network: Callable[[Pixels], Vectors], chosen: str
) -> None:
    factory.networks["bfloat16"] = network
    assert precision.choose("net", "auto", golden, factory).precision == chosen


@pytest.mark.parametrize(("forced", "built"), [("float32", ["float32"]), ("bfloat16", ["float32", "bfloat16"])])
@pytest.mark.usefixtures("without_bfloat16")
def test_a_requested_precision_is_used_even_if_it_is_slower(
    factory: Factory, golden: GoldenVectors, forced: Precision, built: list[str]
) -> None:
    factory.seconds[forced] = (9.0, 9.0)
    assert precision.choose("net", forced, golden, factory).precision == forced
    assert factory.names() == built
    assert [network.timed for network in factory.built] == [[]] * len(built)


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize(
    ("wrong", "cosine"), [(turned(0.9985), "0.998500"), (not_numbers, "nan"), (one_not_a_number, "nan")]
)
def test_every_model_that_is_served_is_compared_with_float32(
    factory: Factory, golden: GoldenVectors, log: Log, wrong: Callable[[Pixels], Vectors], cosine: str, published: bool
) -> None:
    if not published:
        factory.weights_sha256 = "1" * 64
    factory.others = {
        "float32": {"layer-max": float32, "layer-native": float32},
        "bfloat16": {"layer-max": wrong, "layer-native": bfloat16},
    }
    with pytest.raises(GoldenError, match=f"cosine is {cosine} with model layer-max; it must be at least 0.999"):
        precision.choose("net", "bfloat16", golden, factory)
    assert precision.choose("net", "auto", golden, factory).precision == "float32"
    _, event, facts = log.lines[-1]
    assert (event, facts["network"], facts["chosen"], facts["least_similar"], str(facts["cosine"])) == (
        "precision probed",
        "net",
        "float32",
        "layer-max",
        cosine.rstrip("0"),
    )
    # What is wrong is not timed.
    assert [network.timed for network in factory.built] == [[]] * 4


@pytest.mark.usefixtures("with_bfloat16")
def test_raw_models_are_also_compared_by_length(factory: Factory, golden: GoldenVectors) -> None:
    factory.others = {
        "float32": {"layer-raw": lambda pixels: 7 * float32(pixels)},
        "bfloat16": {"layer-raw": lambda pixels: 8 * float32(pixels)},
    }
    with pytest.raises(GoldenError, match="with model layer-raw"):
        precision.choose("net", "bfloat16", golden, factory)


def test_similarity_is_the_cosine_of_unit_vectors_and_lower_for_other_lengths() -> None:
    assert similarity(turned(0.9)(PIXELS), float32(PIXELS)) == pytest.approx([0.9] * 3, abs=1e-6)
    rows: Vectors = np.array([[3, 4]], np.float32)
    assert similarity(rows * np.float32(1.1), rows) == pytest.approx([1 - 0.1**2 / 2], abs=1e-6)


@pytest.mark.parametrize(
    ("asked", "network", "message"),
    [
        ("float32", turned(0.9998), "is 0.9998.* in float32 it must be at least 0.9999"),
        ("bfloat16", turned(0.9985), "is 0.9985.* with model layer; it must be at least 0.999"),
        ("float32", one_wrong, "wrong vectors on this machine"),
        ("bfloat16", one_wrong, "bfloat16 and float32 vectors differ on this machine"),
        ("float32", not_numbers, "is nan"),
        ("bfloat16", not_numbers, "is nan"),
        ("float32", one_not_a_number, "is nan"),
        pytest.param("float32", zeros, "is nan", marks=pytest.mark.filterwarnings("ignore:invalid value")),
    ],
)
def test_a_model_with_wrong_golden_vectors_is_not_served(
    factory: Factory, golden: GoldenVectors, asked: Precision, network: Callable[[Pixels], Vectors], message: str
) -> None:
    factory.networks[asked] = network
    with pytest.raises(GoldenError, match=message):
        precision.choose("net", asked, golden, factory)


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize("network", [turned(0.9998), one_wrong, not_numbers])
def test_auto_does_not_serve_wrong_float32_vectors(
    factory: Factory, golden: GoldenVectors, network: Callable[[Pixels], Vectors]
) -> None:
    factory.networks["float32"] = network
    with pytest.raises(GoldenError):
        precision.choose("net", "auto", golden, factory)


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize(("asked", "chosen"), [("auto", "bfloat16"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_other_weights_are_served_with_a_warning(
    factory: Factory, golden: GoldenVectors, log: Log, asked: Precision, chosen: str
) -> None:
    factory.weights_sha256 = "1" * 64
    # What is golden for these weights nobody knows.
    factory.networks = {"float32": turned(0.5), "bfloat16": turned(0.5)}
    assert precision.choose("net", asked, golden, factory).precision == chosen
    assert set(log.warnings()) == {"no golden vectors for these weights: the model is served without this check"}


def test_the_right_weights_are_served_without_a_warning(factory: Factory, golden: GoldenVectors, log: Log) -> None:
    precision.choose("net", "float32", golden, factory)
    assert log.lines == []


def test_a_cosine_does_not_depend_on_the_length_of_rows() -> None:
    some: Vectors = np.array([[1, 0], [2, 2], [0, 1e-20]], np.float32)
    others: Vectors = np.array([[5, 0], [0, 3], [0, -1e20]], np.float32)
    assert cosines(some, others) == pytest.approx([1.0, 0.5**0.5, -1.0])


def test_the_golden_vectors_of_vgg16_are_of_the_published_weights() -> None:
    golden = GoldenVectors.of(VGG16.name)
    assert golden.weights_sha256 == VGG16.sha256
    assert golden.pixels.dtype == np.uint8
    assert golden.pixels.shape[1:] == (224, 224, 3)
    assert golden.vectors.dtype == np.float32
    assert golden.vectors.shape == (len(golden.pixels), 512)
    assert np.linalg.norm(golden.vectors, axis=1) == pytest.approx(np.ones(len(golden.pixels)), abs=1e-5)
    golden.check(golden.vectors, "float32")
    # They tell one image from another, or they would prove little.
    with pytest.raises(GoldenError):
        golden.check(golden.vectors[::-1], "bfloat16")
