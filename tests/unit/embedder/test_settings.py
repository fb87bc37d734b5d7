"""Settings of the embedder: weights must be for a served model."""

import pytest
from pydantic import ValidationError

from embedder_service.settings import EmbedderSettings

DIGEST, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("models", "given", "files"),
    [
        ("vgg16", "/w/mine.h5", {"vgg16": "/w/mine.h5"}),
        ("vgg16-max,vgg16", "/w/mine.h5", {"vgg16": "/w/mine.h5"}),
        ("tiny=/m/tiny,mobilenet", "/w/mine.h5", {"mobilenet": "/w/mine.h5"}),
        ("VGG16, vgg16-max", " VGG16-avg = /w/mine.h5 ", {"vgg16": "/w/mine.h5"}),
        ("vgg16-fc1", "vgg16-fc1=/w/top.h5", {"vgg16_top": "/w/top.h5"}),
        ("vgg16-fc1,vgg16", "vgg16_top=/w/top.h5, vgg16=/w/a=b.h5", {"vgg16_top": "/w/top.h5", "vgg16": "/w/a=b.h5"}),
    ],
)
def test_files_are_found_by_the_names_of_the_weights(models: str, given: str, files: dict[str, str]) -> None:
    settings = EmbedderSettings(models=models, weights=given)
    assert {name: str(path) for name, path in settings.weights_files.items()} == files


@pytest.mark.parametrize(
    ("models", "given", "said"),
    [
        ("vgg16", "vgg=/w/mine.h5", "no weights are called 'vgg'; use vgg16, vgg19, "),
        ("vgg16-fc1", "vgg16_fc1=/w/mine.h5", "no weights are called 'vgg16_fc1'"),
        ("tiny=/m/tiny", "/w/mine.h5", "is for none of EMBEDDER_MODELS: the weights of encoders are in their folders"),
        ("vgg16,mobilenet", "/w/a.h5,/w/b.h5", "it has two values for vgg16; use NAME=VALUE"),
        ("vgg16", "/w/a.h5,vgg16=/w/b.h5", "it has two values for vgg16"),
        ("vgg16", "vgg16=/w/a.h5,vgg16-max=/w/b.h5", "it has two values for vgg16"),
    ],
)
def test_weights_that_no_model_could_use_are_refused(models: str, given: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        EmbedderSettings(models=models, weights=given)
    assert said in str(refused.value)


def test_a_digest_of_no_model_is_refused() -> None:
    digests = EmbedderSettings(models="vgg16,mobilenet", weights_sha256=f"{DIGEST},mobilenet={OTHER}").weights_digests
    assert digests == {"vgg16": DIGEST, "mobilenet": OTHER}
    with pytest.raises(ValidationError, match="no weights are called 'vgg'"):
        EmbedderSettings(models="vgg16", weights_sha256=f"vgg={DIGEST}")


def test_a_digest_in_capitals_is_the_same_digest() -> None:
    assert EmbedderSettings(weights_sha256=f"VGG16={DIGEST.upper()}").weights_digests == {"vgg16": DIGEST}


@pytest.mark.parametrize("models", ["vgg16,VGG16", "vgg16-avg, vgg16-squash224", "own=/a, Own=/b"])
def test_two_names_of_one_model_are_refused(models: str) -> None:
    with pytest.raises(ValidationError, match=r"are the same model, (vgg16|own); name it once"):
        EmbedderSettings(models=models)


def test_weights_of_a_network_that_is_not_served_are_allowed() -> None:
    settings = EmbedderSettings(models="vgg16", weights="vgg16=/w/a.h5,resnet50=/w/b.h5")
    assert settings.weights_files.keys() == {"vgg16", "resnet50"}
