"""The rules for requests of regions, and boxes of a part of an image."""

import random
from dataclasses import replace

import numpy as np
import pytest

from embedder_service.core.model_names import ModelName, parse_model_name
from embedder_service.core.region_requests import check_request, of_whole_image, within
from embedder_service.core.types import (
    ImageVectors,
    InputPolicy,
    ModelInfo,
    Region,
    RegionRequest,
    Regions,
    RegionVector,
)
from grpc_kit.errors import InvalidArgumentError

INFO = ModelInfo(
    "vgg16-max-native", "vgg16", 512, InputPolicy("native", 512), "max", "none/1", "l2", "0" * 64, "float32", 1, 1
)
WHOLE = Region(0, 0, 1, 1)


def info_of(name: str) -> ModelInfo:
    model = parse_model_name(name)
    assert isinstance(model, ModelName)
    return replace(INFO, name=model.text, network=model.network.name, input=model.input, head=model.head)


@pytest.mark.parametrize("name", ["vgg16-max-native", "mobilenet-native", "resnet50-gem-native1024-raw"])
def test_models_of_native_input_and_a_head_that_pools_embed_regions(name: str) -> None:
    info = info_of(name)
    check_request(RegionRequest(64, (WHOLE,) * 64), None, info)
    assert info.region_fingerprint


@pytest.mark.parametrize(
    "name", ["vgg16", "vgg16-fc1", "vgg16-flatten", "vgg16-rmac-native", "vgg16-max-pad", "vgg16-gem-crop", "vgg19-max"]
)
def test_other_models_are_refused_with_their_head_and_input_and_a_model_that_is_right(name: str) -> None:
    info = info_of(name)
    with pytest.raises(InvalidArgumentError) as refused:
        check_request(RegionRequest(), None, info)
    assert (refused.value.reason, refused.value.field) == ("REGIONS_UNSUPPORTED", "model")
    assert f"head {info.head} and input {info.input.shape};" in refused.value.message
    assert refused.value.message.endswith(f"such as {info.network}-max-native")
    assert not info.region_fingerprint


def test_an_encoder_embeds_no_regions() -> None:
    encoder = replace(INFO, name="mine", network="mine", head="latent", is_encoder=True)
    with pytest.raises(InvalidArgumentError, match=r"head latent .* such as vgg16-max-native$"):
        check_request(RegionRequest(), None, encoder)
    assert not encoder.region_fingerprint


def test_the_path_of_a_request_is_in_its_errors_and_not_in_its_identity() -> None:
    wrong = RegionRequest(0, (WHOLE, Region(0.5, 0, 0.4, 1)), "regions")
    with pytest.raises(InvalidArgumentError, match=r"^regions\.boxes\[1\] is") as refused:
        check_request(wrong, None, INFO)
    assert refused.value.field == "regions.boxes[1]"
    assert wrong == replace(wrong, path="options")
    assert hash(wrong) == hash(replace(wrong, path="options"))


@pytest.mark.parametrize(
    ("request_", "vectors"),
    [
        (RegionRequest(), 1),
        (RegionRequest(8, (WHOLE,)), 10),
        # Refused later; until then they reserve no more than the largest valid request.
        (RegionRequest(-5), 1),
        (RegionRequest(2**31 - 1, (WHOLE,) * 1000), 129),
    ],
)
def test_the_maximum_number_of_vectors(request_: RegionRequest, vectors: int) -> None:
    assert request_.max_vectors == vectors


def test_boxes_within_a_part_and_back() -> None:
    dice = random.Random(1)
    for _ in range(1000):
        x0, x1 = sorted(float(np.float32(dice.random())) for _ in range(2))
        y0, y1 = sorted(float(np.float32(dice.random())) for _ in range(2))
        part = Region(x0, y0, x1, y1)
        boxes = (part, Region(x0, y0, (x0 + x1) / 2, (y0 + y1) / 2))
        request = RegionRequest(0, boxes)
        check_request(request, part, INFO)
        inner = within(request, part)
        assert inner is not None
        assert inner.boxes[0] == WHOLE
        np.testing.assert_allclose((inner.boxes[1].x1, inner.boxes[1].y1), 0.5)
        vector = np.ones(3, np.float32)
        regions = Regions(
            (RegionVector(inner.boxes[1], vector, 2.0),), tuple(RegionVector(box, vector) for box in inner.boxes), WHOLE
        )
        outer = of_whole_image(ImageVectors(vector, regions), request, part).regions
        assert outer is not None
        # The boxes of the request come back as they were sent.
        assert tuple(each.box for each in outer.boxes) == boxes
        # An edge that was computed may not leave the part.
        assert part.x0 <= outer.proposals[0].box.x0 < outer.proposals[0].box.x1 <= part.x1
        assert outer.salient_box == part
        assert outer.proposals[0].saliency == 2.0


def test_without_a_part_nothing_changes() -> None:
    request = RegionRequest(3, (Region(0.1, 0.2, 0.3, 0.4),))
    assert within(request, None) is request
    assert within(None, WHOLE) is None
