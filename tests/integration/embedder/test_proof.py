"""The check of vectors at start, with published weights and with weights of your own."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from embedder_service.adapters import cpus, keras_backbones, model_loading, weights_files
from embedder_service.adapters.golden_vectors import GoldenError
from embedder_service.adapters.precision import Precision
from embedder_service.adapters.tensorflow_model import TensorflowModel
from embedder_service.adapters.weights_files import MOBILENET, Tensors
from embedder_service.bootstrap import load_models
from embedder_service.settings import EmbedderSettings

# Any network loads within this time on the slowest machine.
pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Own:
    """A file of weights of one's own."""

    path: Path
    sha256: str

    def settings(self, models: str, precision: Precision) -> EmbedderSettings:
        return EmbedderSettings(
            models=models,
            weights=f"mobilenet={self.path}",
            weights_sha256=f"mobilenet={self.sha256}",
            precision=precision,
            max_batch_size=1,
        )


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # TensorFlow runs in this process already, and takes no other number of threads.
    monkeypatch.setattr(model_loading, "use_threads", lambda _: None)
    # Processors without instructions for bfloat16 compute it too, slowly.
    monkeypatch.setattr(cpus, "have_bfloat16", lambda: True)


@pytest.fixture(scope="module")
def published() -> Tensors:
    return weights_files.read_verified(weights_files.default_cache() / MOBILENET.file_name, MOBILENET)


@pytest.fixture
def own(published: Tensors, tmp_path: Path) -> Callable[[Callable[[str, NDArray[np.float32]], Any]], Own]:
    """Writes MobileNet's weights with each tensor changed by a function of its name and values."""

    def write(change: Callable[[str, NDArray[np.float32]], Any]) -> Own:
        changed = {name: np.asarray(change(name, values), np.float32) for name, values in published.items()}
        network = keras_backbones.build("mobilenet", "float32")
        keras_backbones.set_weights(network, changed)
        path = tmp_path / "own.weights.h5"
        network.save_weights(path)
        return Own(path, weights_files.tensors_sha256(changed))

    return write


def test_wrong_bfloat16_is_refused_even_without_golden_vectors(
    own: Callable[..., Own], capsys: pytest.CaptureFixture[str]
) -> None:
    # Fine-tuned a little: no published digest, and MobileNet in bfloat16 is beyond the least cosine.
    file = own(lambda name, values: values + np.float32(1e-3) if name.endswith("beta") else values)
    models = "mobilenet-squash96,mobilenet-flatten-squash96,mobilenet-gem-native96"
    with pytest.raises(GoldenError) as refused:
        load_models(file.settings(models, "bfloat16"))
    said = str(refused.value)
    assert said.startswith("mobilenet: bfloat16 and float32 vectors differ on this machine: their cosine is 0.9")
    assert "with model mobilenet-" in said
    assert "(head " in said
    assert "it must be at least 0.999; use EMBEDDER_PRECISION=auto" in said
    capsys.readouterr()
    loaded = load_models(file.settings(models, "auto"))
    assert {model.info.precision for model in loaded} == {"float32"}
    assert [model.info.dimension for model in loaded] == [1024, 9216, 1024]
    log = capsys.readouterr().out
    assert "chosen=float32" in log
    assert "least_similar='mobilenet-" in log


def test_all_models_use_bfloat16_if_their_vectors_are_right(published_weights: Path) -> None:
    names = ["vgg16-max", "vgg16", "vgg16-gem-pad96", "vgg16-rmac-native96", "vgg16-flatten-crop64-raw"]
    settings = EmbedderSettings(
        models=",".join(names), weights=str(published_weights), precision="bfloat16", max_batch_size=1
    )
    loaded = load_models(settings)
    assert [model.info.name for model in loaded] == names
    assert {model.info.precision for model in loaded} == {"bfloat16"}
    assert [model.info.dimension for model in loaded] == [512, 512, 512, 512, 2048]
    assert len({id(model.backbone) for model in loaded if isinstance(model, TensorflowModel)}) == 1
    for model in loaded:
        shape = (64, 96) if model.info.input.shape == "native" else (model.info.input.side,) * 2
        pixels = np.random.default_rng(0).integers(0, 256, (1, *shape, 3), np.uint8)
        assert model.embed(pixels).shape == (1, model.info.dimension)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _, values: values * np.float32(np.nan), "component 0 is nan; it must be finite"),
        (lambda _, values: values * 0, "it is all zero"),
    ],
    ids=["not numbers", "zero"],
)
def test_weights_with_invalid_vectors_are_not_served(
    own: Callable[..., Own], change: Callable[[str, NDArray[np.float32]], Any], said: str, precision: Precision
) -> None:
    with pytest.raises(GoldenError, match=f"mobilenet.* computes an invalid vector of a photograph: .*{said}"):
        load_models(own(change).settings("mobilenet", precision))


def test_weights_outside_of_bfloat16s_range_are_served_in_float32(own: Callable[..., Own]) -> None:
    file = own(lambda name, values: values * np.float32(1e30) if "kernel" in name else values)
    with pytest.raises(
        GoldenError, match=r"cosine is \S+ with model mobilenet \(head avg\); it must be at least 0.999"
    ):
        load_models(file.settings("mobilenet", "bfloat16"))
    (model,) = load_models(file.settings("mobilenet", "auto"))
    assert model.info.precision == "float32"


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    ("kernel", "bias", "said"),
    [(0.0, np.nan, "component 0 is nan"), (0.0, 0.0, "it is all zero"), (1e38, 0.0, "component 0 is inf")],
)
def test_an_encoder_with_invalid_vectors_is_not_served(kernel: float, bias: float, said: str, tmp_path: Path) -> None:
    images = keras.Input((32, 32, 3))
    constant = keras.initializers.Constant
    latent = keras.layers.Dense(3, kernel_initializer=constant(kernel), bias_initializer=constant(bias))
    keras.Model(images, latent(keras.layers.Flatten()(images))).save(tmp_path / "encoder.keras")
    facts = {"format": 1, "pixels": "0..1", "input": "squash", "input_size": 32, "dimension": 3}
    facts["encoder_sha256"] = hashlib.sha256((tmp_path / "encoder.keras").read_bytes()).hexdigest()
    (tmp_path / "model.json").write_text(json.dumps(facts))
    with pytest.raises(GoldenError, match=f"model tiny .* computes an invalid vector of a photograph: {said}"):
        load_models(EmbedderSettings(models=f"tiny={tmp_path}", max_batch_size=1))


def test_models_of_one_network_and_input_are_measured_once(
    published_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    original = TensorflowModel.seconds_per_image

    def seconds_per_image(model: TensorflowModel, batch_size: int, runs: int = 3) -> float:
        measured.append(model.info.name)
        return original(model, batch_size, runs)

    monkeypatch.setattr(TensorflowModel, "seconds_per_image", seconds_per_image)
    loaded = load_models(
        EmbedderSettings(
            models="vgg16-squash64,vgg16-max-squash64,vgg16-gem-squash64",
            weights=str(published_weights),
            precision="float32",
            max_batch_size=1,
        )
    )
    assert set(measured) == {"vgg16-squash64"}
    assert len({model.info.seconds_per_image for model in loaded}) == 1
    assert loaded[0].info.seconds_per_image > 0
