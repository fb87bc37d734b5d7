"""Names of models: their meaning, and the errors for invalid names."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder_service.core.model_names import (
    EncoderName,
    ModelName,
    ModelNameError,
    canonical_name,
    parse_model_name,
    weights_name_of,
)
from embedder_service.core.networks import NETWORKS
from embedder_service.core.types import InputPolicy


def model(text: str) -> ModelName:
    parsed = parse_model_name(text)
    assert isinstance(parsed, ModelName)
    return parsed


@pytest.mark.parametrize(
    ("text", "network", "head", "policy", "unit"),
    [
        ("vgg16", "vgg16", "avg", InputPolicy("squash", 224), True),
        ("vgg16-gem", "vgg16", "gem", InputPolicy("squash", 224), True),
        ("vgg16-fc1-crop", "vgg16", "fc1", InputPolicy("crop", 224), True),
        ("inception_v3-raw", "inception_v3", "avg", InputPolicy("squash", 299), False),
        ("inception_v3-rmac-native", "inception_v3", "rmac", InputPolicy("native", 512, 96), True),
        ("mobilenet_v2-pad", "mobilenet_v2", "avg", InputPolicy("pad", 224), True),
        ("resnet50-max-squash448-raw", "resnet50", "max", InputPolicy("squash", 448), False),
    ],
)
def test_a_name_is_parsed_into_network_head_and_input(
    text: str, network: str, head: str, policy: InputPolicy, unit: bool
) -> None:
    found = model(text)
    assert (found.network.name, found.head, found.unit) == (network, head, unit)
    assert (found.input.shape, found.input.side) == (policy.shape, policy.side)
    assert found.input.min_side == policy.min_side
    assert found.text == text


@pytest.mark.parametrize(
    ("text", "usual"),
    [("vgg16-avg", "vgg16"), ("vgg16-squash224", "vgg16"), ("vgg16-gem-native512", "vgg16-gem-native")],
)
def test_defaults_are_omitted_from_a_name(text: str, usual: str) -> None:
    assert model(text).text == usual


@given(
    network=st.sampled_from(sorted(NETWORKS)),
    head=st.sampled_from(["avg", "max", "gem", "rmac"]),
    shape=st.sampled_from(["squash", "pad", "crop", "native"]),
    side=st.integers(3, 64).map(lambda cells: 32 * cells),
    raw=st.booleans(),
)
def test_a_models_own_name_means_the_same_model(network: str, head: str, shape: str, side: int, raw: bool) -> None:
    once = model(f"{network}-{head}-{shape}{side}{'-raw' if raw else ''}")
    assert model(once.text) == once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no network is called ''; use vgg16, vgg19"),
        ("vgg17", "no network is called 'vgg17'; use vgg16"),
        ("vgg16-fc2", "'fc2' must be a head (avg, max, gem, rmac, flatten, fc1)"),
        ("mobilenet-fc1", "'fc1' must be a head (avg, max, gem, rmac, flatten)"),
        ("vgg16-raw-gem", "'gem' must be"),
        ("vgg16-pad300", "the side must be 224, or a multiple of 32 from 32 to 2048"),
        ("inception_v3-squash64", "multiple of 32 from 96"),
        ("vgg16-pad4096", "to 2048"),
        ("vgg16-fc1-pad320", "fc1 requires squares of 224 pixels"),
        ("vgg16-fc1-native", "fc1 requires squares"),
        ("vgg16-flatten-native", "flatten requires inputs of one size; use squash, pad or crop"),
        ("inception_v3-flatten", "131072 components"),
        ("resnet50-flatten", "100352 components, and the maximum of Milvus is 32768"),
        ("vgg16=/folder", "differ from the names of networks"),
        ("my flowers=/folder", "NAME=FOLDER"),
        ("VGG16 =/folder", "differ from the names of networks"),
        ("vgg16-pad\u0663\u0662\u0660", "must be a head"),
        ("flowers=", "NAME=FOLDER"),
    ],
)
def test_an_invalid_name_is_refused_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ModelNameError) as refused:
        parse_model_name(text)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vgg16", "vgg16"),
        ("VGG16", "vgg16"),
        (" vgg16-avg\n", "vgg16"),
        ("vgg16-avg-squash224", "vgg16"),
        ("Vgg16-GEM-Native0512-Raw", "vgg16-gem-native-raw"),
        ("Flowers", "flowers"),
        ("no model at all", "no model at all"),
        ("vgg16-gem-gem", "vgg16-gem-gem"),
        ("flowers=/models/flowers", "flowers=/models/flowers"),
        (" ", ""),
    ],
)
def test_all_spellings_of_a_model_are_one_name(text: str, name: str) -> None:
    assert canonical_name(text) == name
    assert canonical_name(name) == name


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("vgg16", "vgg16"),
        (" VGG16", "vgg16"),
        ("vgg16-gem-pad320", "vgg16"),
        ("VGG16_top", "vgg16_top"),
        ("vgg19-fc1-raw", "vgg19_top"),
        ("mobilenet_v2-avg", "mobilenet_v2"),
    ],
)
def test_a_models_name_means_its_weights(text: str, weights: str) -> None:
    assert weights_name_of(text) == weights


@pytest.mark.parametrize("text", ["", "flowers", "vgg17", "mobilenet_top", "flowers=/models/flowers"])
def test_an_unknown_name_of_weights_is_refused_with_the_known_names(text: str) -> None:
    with pytest.raises(ModelNameError, match=f"no weights are called '{text}'; use vgg16, vgg19, "):
        weights_name_of(text)


def test_the_name_of_an_encoder_is_lower_case_without_spaces() -> None:
    assert parse_model_name(" Flowers = /Models/Flowers ") == EncoderName("flowers", Path("/Models/Flowers"))


def test_an_encoder_has_a_name_and_a_folder() -> None:
    assert parse_model_name("flowers=/models/flowers=2") == EncoderName("flowers", Path("/models/flowers=2"))
