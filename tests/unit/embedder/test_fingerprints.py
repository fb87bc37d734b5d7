"""What a fingerprint depends on, and what it does not depend on."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import pytest

from embedder_service.adapters import model_loading
from embedder_service.adapters.weights_files import MOBILENET, VGG16
from embedder_service.bootstrap import load_models
from embedder_service.core import types
from embedder_service.core.types import InputPolicy, ModelInfo
from embedder_service.settings import EmbedderSettings

SIDE = 32


def published(name: str, head: str, policy: InputPolicy, scale: str, unit: str, weights_sha256: str) -> ModelInfo:
    preprocessing = f"rgb-bilinear-{policy.shape}-{scale}/3"
    network = name.partition("-")[0]
    return ModelInfo(name, network, 512, policy, head, preprocessing, unit, weights_sha256, "float32", 8, 2)


SQUASH = InputPolicy("squash", 224)
INFO = published("vgg16", "avg", SQUASH, "caffe", "l2", VGG16.sha256)


@pytest.mark.parametrize(
    ("info", "fingerprint"),
    [
        (INFO, "vgg16-avg-ad4b73ab834214e9"),
        (published("vgg16-rmac", "rmac", SQUASH, "caffe", "l2", VGG16.sha256), "vgg16-rmac-f7b73386018c8ee9"),
        (published("vgg16-raw", "avg", SQUASH, "caffe", "none", VGG16.sha256), "vgg16-avg-dda415fb0129c5c5"),
        (
            published("vgg16-gem-pad448", "gem", InputPolicy("pad", 448), "caffe", "l2", VGG16.sha256),
            "vgg16-gem-b6e3ff748c8e0ef8",
        ),
        (published("mobilenet", "avg", SQUASH, "tf", "l2", MOBILENET.sha256), "mobilenet-avg-c5f3b177d63172bf"),
    ],
    ids=lambda value: value.name if isinstance(value, ModelInfo) else "",
)
def test_fingerprints_of_published_models_stay_as_collections_store_them(info: ModelInfo, fingerprint: str) -> None:
    assert info.fingerprint == fingerprint


NATIVE = InputPolicy("native", 512)
REGIONAL = published("vgg16-max-native", "max", NATIVE, "caffe", "l2", VGG16.sha256)


def test_fingerprints_of_regions_stay_as_collections_store_them() -> None:
    assert REGIONAL.region_fingerprint == "vgg16-max-regions-7270330235c2d381"


@pytest.mark.parametrize("head", ["avg", "max", "gem"])
def test_vectors_of_regions_have_a_fingerprint_of_their_own(head: str) -> None:
    infos = [replace(REGIONAL, head=head), replace(REGIONAL, head=head, normalisation="none")]
    infos.append(replace(REGIONAL, head=head, input=InputPolicy("native", 1024)))
    fingerprints = {info.region_fingerprint for info in infos}
    assert all(text.startswith(f"vgg16-{head}-regions-") for text in fingerprints)
    assert len(fingerprints | {info.fingerprint for info in infos}) == 6


def test_the_version_of_the_rules_for_regions_is_part_of_their_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = REGIONAL.region_fingerprint
    monkeypatch.setattr(types, "REGIONS_VERSION", types.REGIONS_VERSION + 1)
    assert replace(REGIONAL).region_fingerprint != before
    assert replace(REGIONAL).fingerprint == REGIONAL.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16"},
        {"max_batch_size": 1},
        {"threads": 7},
        {"seconds_per_image": 1.0},
        {"memory_bytes": 1},
        {"dimension": 0},
    ],
    ids=str,
)
def test_a_fingerprint_does_not_depend_on_how_a_model_runs(change: dict[str, Any]) -> None:
    assert replace(INFO, **change).fingerprint == INFO.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "0" * 64},
        {"head": "max"},
        {"normalisation": "none"},
        {"preprocessing": "rgb-bilinear-squash-caffe/4"},
        {"input": InputPolicy("squash", 256)},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_encoder", [False, True])
def test_a_fingerprint_depends_on_what_changes_vectors(change: dict[str, Any], is_encoder: bool) -> None:
    info = replace(INFO, is_encoder=is_encoder)
    assert replace(info, **change).fingerprint != info.fingerprint


def network(activation: str = "relu", seed: int = 3) -> Any:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    images = layers.Input((SIDE, SIDE, 3))
    maps = layers.Conv2D(4, 3, strides=4, activation=activation)(images)
    return keras.Model(images, layers.Dense(5)(layers.Flatten()(maps)))


def saved(made: Any, folder: Path) -> Path:
    folder.mkdir()
    made.save(folder / "encoder.keras")
    facts = {
        "format": 1,
        "pixels": "0..1",
        "input": "squash",
        "input_size": SIDE,
        "dimension": 5,
        "encoder_sha256": hashlib.sha256((folder / "encoder.keras").read_bytes()).hexdigest(),
    }
    (folder / "model.json").write_text(json.dumps(facts))
    return folder


def fingerprints(models: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    # TensorFlow runs in this process already, and takes no other number of threads.
    monkeypatch.setattr(model_loading, "use_threads", lambda _: None)
    loaded = load_models(EmbedderSettings(models=",".join(models), max_batch_size=1))
    return [model.info.fingerprint for model in loaded]


def test_an_encoder_keeps_its_fingerprint_under_another_name_and_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = saved(network(), tmp_path / "first")
    moved = shutil.copytree(first, tmp_path / "moved")
    names = [f"flowers={first}", f"blossoms={moved}"]
    found = fingerprints(names, monkeypatch)
    assert len(set(found)) == 1
    assert found[0].startswith("encoder-latent-")
    assert fingerprints(names[::-1], monkeypatch) == found


def test_encoders_with_different_weights_have_different_fingerprints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [
        saved(network(), tmp_path / "a"),
        saved(network(activation="tanh"), tmp_path / "b"),
        saved(network(seed=4), tmp_path / "c"),
    ]
    assert len(set(fingerprints([f"m{n}={folder}" for n, folder in enumerate(folders)], monkeypatch))) == 3
