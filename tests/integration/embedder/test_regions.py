"""EmbedRegions with real weights, over gRPC."""

import io
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from PIL import Image, ImageDraw

from grpc_kit.errors import InvalidArgumentError
from imagesearch_client import EmbedderClient, ImageFile, ImageRegions, Region, RegionEmbedding

MODELS = ("mobilenet-max-native256", "vgg16-max-native")
WHOLE = Region(0, 0, 1, 1)


@pytest.fixture(scope="module")
def client(embedder_address: str) -> Iterator[EmbedderClient]:
    with EmbedderClient(embedder_address, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def photograph(photographs: dict[str, bytes]) -> bytes:
    return photographs["coffee.png"]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def same(left: RegionEmbedding, right: RegionEmbedding) -> bool:
    return (left.box, left.embedding, left.saliency) == (right.box, right.embedding, right.saliency)


@pytest.mark.parametrize("model", MODELS)
def test_the_whole_image_has_the_vector_of_embed(client: EmbedderClient, photograph: bytes, model: str) -> None:
    found = client.embed_regions(photograph, model=model, boxes=[WHOLE])
    plain, described = client.embed(photograph, model=model), client.get_model(model)
    assert found.embedding.fingerprint == described.region_fingerprint != plain.fingerprint
    np.testing.assert_array_equal(found.boxes[0].embedding.values, found.embedding.values)
    assert float(found.embedding.values @ plain.values) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_equal_images_have_equal_regions_in_both_lanes(client: EmbedderClient, photograph: bytes, model: str) -> None:
    # A byte after the image changes the key of the cache and not the pixels.
    calls: list[ImageRegions] = [
        client.embed_regions(photograph + bytes([number]), model=model, max_regions=8, bulk=number > 1)
        for number in range(4)
    ]
    for found in calls:
        assert 1 < len(found.proposals) <= 8
        assert found.salient_box == calls[0].salient_box
        assert all(map(same, found.proposals, calls[0].proposals))


def test_the_first_proposals_are_those_of_a_lower_number(client: EmbedderClient, photograph: bytes) -> None:
    most = client.embed_regions(photograph, model=MODELS[1], max_regions=64).proposals
    assert len(most) > 8
    for count in (0, 1, 8):
        few = client.embed_regions(photograph, model=MODELS[1], max_regions=count).proposals
        assert len(few) == count
        assert all(map(same, few, most))


@pytest.mark.parametrize("model", MODELS)
def test_an_object_on_a_plain_background_is_proposed(client: EmbedderClient, model: str, photograph: bytes) -> None:
    scene = Image.new("RGB", (512, 384), (120, 130, 140))
    with Image.open(io.BytesIO(photograph)) as image:
        scene.paste(image.convert("RGB").resize((160, 160)), (320, 64))
    truth = Region(320 / 512, 64 / 384, 480 / 512, 224 / 384)
    found = client.embed_regions(encoded(scene), model=model, max_regions=8)
    assert max(overlap(each.box, truth) for each in found.proposals) > 0.45
    assert overlap(found.salient_box, truth) > 0.35


def overlap(first: Region, second: Region) -> float:
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.x1 - box.x0) * (box.y1 - box.y0) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def test_boxes_follow_the_orientation_of_the_file(client: EmbedderClient) -> None:
    upright = Image.new("RGB", (320, 160), "gray")
    ImageDraw.Draw(upright).ellipse((220, 20, 300, 100), "red", "yellow", 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=98, exif=exif)
    plain = encoded(upright, "JPEG", quality=98)
    first, second = (client.embed_regions(each, model=MODELS[0], max_regions=3) for each in (plain, turned))
    assert [each.box for each in first.proposals] == [each.box for each in second.proposals]


def test_boxes_of_a_part_are_fractions_of_the_whole_image(client: EmbedderClient, photograph: bytes) -> None:
    part = Region(0.25, 0.0, 0.75, 0.5)
    with Image.open(io.BytesIO(photograph)) as image:
        width, height = image.size
        cut = encoded(image.crop((width // 4, 0, 3 * width // 4, height // 2)))
    inner = client.embed_regions(cut, model=MODELS[0], max_regions=4, boxes=[Region(0, 0, 0.5, 1)])
    outer = client.embed_regions(
        ImageFile(photograph, part), model=MODELS[0], max_regions=4, boxes=[Region(0.25, 0.0, 0.5, 0.5)]
    )
    assert outer.boxes[0].box == Region(0.25, 0.0, 0.5, 0.5)
    for within, whole in zip((*inner.proposals, *inner.boxes), (*outer.proposals, *outer.boxes), strict=True):
        assert whole.box.x0 == pytest.approx(0.25 + within.box.x0 / 2, abs=1e-6)
        assert whole.box.y1 == pytest.approx(within.box.y1 / 2, abs=1e-6)
        assert float(whole.embedding.values @ within.embedding.values) > 0.98
    assert part.x0 <= outer.salient_box.x0 < outer.salient_box.x1 <= part.x1


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (33, 500), (6000, 60)])
def test_small_and_long_images_have_vectors(client: EmbedderClient, size: tuple[int, int]) -> None:
    dice = np.random.default_rng(1)
    pixels = dice.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    found = client.embed_regions(encoded(Image.fromarray(pixels)), model=MODELS[0], max_regions=8, boxes=[WHOLE])
    assert np.linalg.norm(found.boxes[0].embedding.values) == pytest.approx(1, abs=1e-3)
    assert all(0 <= each.box.x0 < each.box.x1 <= 1 for each in found.proposals)


NAN = float("nan")
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "vgg16"}, "REGIONS_UNSUPPORTED", "model"),
    ({"model": "mobilenet-max"}, "REGIONS_UNSUPPORTED", "model"),
    ({"max_regions": -1}, "MAX_REGIONS_INVALID", "options.max_regions"),
    ({"max_regions": 65}, "MAX_REGIONS_INVALID", "options.max_regions"),
    ({"boxes": [WHOLE] * 65}, "TOO_MANY_BOXES", "options.boxes"),
    ({"boxes": [WHOLE, Region(0.5, 0, 0.5, 1)]}, "REGION_INVALID", "options.boxes[1]"),
    ({"boxes": [Region(0.6, 0, 0.5, 1)]}, "REGION_INVALID", "options.boxes[0]"),
    ({"boxes": [Region(0, 0, 1.01, 1)]}, "REGION_INVALID", "options.boxes[0]"),
    ({"boxes": [Region(-0.01, 0, 1, 1)]}, "REGION_INVALID", "options.boxes[0]"),
    ({"boxes": [Region(0, NAN, 1, 1)]}, "REGION_INVALID", "options.boxes[0]"),
    ({"boxes": [Region(0.5, 0.5, 0.5001, 0.5001)]}, "REGION_INVALID", "options.boxes[0]"),
    ({"part": Region(0, 0, 0.5, 0.5), "boxes": [Region(0.4, 0, 0.6, 0.5)]}, "REGION_INVALID", "options.boxes[0]"),
    ({"part": Region(0.5, 0, 0.4, 1)}, "REGION_INVALID", "image.region"),
]


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(("given", "reason", "field"), WRONG)
def test_wrong_regions_are_refused_by_name(
    client: EmbedderClient, photograph: bytes, given: dict[str, Any], reason: str, field: str, bulk: bool
) -> None:
    options = {"model": MODELS[0]} | given
    image = ImageFile(photograph, options.pop("part", None))
    with pytest.raises(InvalidArgumentError) as refused:
        client.embed_regions(image, bulk=bulk, **options)
    # The message of a stream has the options in another field.
    expected = field.replace("options", "regions") if bulk else field
    assert (refused.value.reason, refused.value.field) == (reason, expected)
    assert reason == "REGIONS_UNSUPPORTED" or expected in refused.value.message


def test_a_stream_answers_plain_requests_and_requests_for_regions(embedder_address: str, photograph: bytes) -> None:
    image = encoded_image_pb2.EncodedImage(content=photograph)
    requests = [
        embedder_pb2.EmbedStreamRequest(
            request_id=str(number),
            model=MODELS[0],
            image=image,
            regions=embedder_pb2.RegionOptions(max_regions=number) if number % 2 else None,
        )
        for number in range(10)
    ]
    with grpc.insecure_channel(embedder_address) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        answers = {int(answer.request_id): answer for answer in stub.EmbedStream(iter(requests), timeout=60)}
    assert sorted(answers) == list(range(10))
    for number, answer in answers.items():
        assert answer.WhichOneof("result") == ("regions" if number % 2 else "embedding")
        if number % 2:
            assert len(answer.regions.proposals) == number
