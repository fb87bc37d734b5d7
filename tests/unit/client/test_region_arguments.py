"""Wrong arguments about regions: the error names the argument and says what is allowed, before anything is sent."""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from imagesearch_client import (
    AsyncClient,
    AsyncEmbedderClient,
    Client,
    EmbedderClient,
    Embedding,
    ImageFile,
    NewImage,
    Region,
    RegionEmbedding,
)
from imagesearch_client.to_messages import search_request, write_request

BOX, VECTOR = Region(0, 0, 0.5, 0.5), Embedding([1, 2], "f")
QUERY = ImageFile(b"image")
# Nobody listens there: what is sent fails in another way.
NOWHERE, SECONDS = "127.0.0.1:1", 0.1


@pytest.fixture(params=["blocking", "asynchronous"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a method of a new client in either form, and read all that it yields."""

    def run(kind: str, method: str, *arguments: Any, **options: Any) -> None:
        if request.param == "blocking":
            with (Client if kind == "search" else EmbedderClient)(NOWHERE, timeout=SECONDS) as client:
                found = getattr(client, method)(*arguments, **options)
                _ = list(found) if isinstance(found, Iterator) else found
            return
        asyncio.run(run_async(kind, method, *arguments, **options))

    async def run_async(kind: str, method: str, *arguments: Any, **options: Any) -> None:
        async with (AsyncClient if kind == "search" else AsyncEmbedderClient)(NOWHERE, timeout=SECONDS) as client:
            found = getattr(client, method)(*arguments, **options)
            if isinstance(found, AsyncIterator):
                async for _ in found:
                    pass
            elif inspect.isawaitable(found):
                await found

    return run


MAX_REGIONS = "it must be a whole number from 0 to 64"
TYPES, VALUES = TypeError, ValueError


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"max_regions": "3"}, TYPES, f"max_regions is '3'; {MAX_REGIONS}"),
        ({"max_regions": 2.5}, TYPES, f"max_regions is 2.5; {MAX_REGIONS}"),
        ({"max_regions": None}, TYPES, f"max_regions is None; {MAX_REGIONS}"),
        ({"max_regions": 2**40}, VALUES, f"max_regions is 1099511627776; {MAX_REGIONS}"),
        ({"boxes": BOX}, TYPES, "boxes must be a list of Region values, and no Region"),
        ({"boxes": None}, TYPES, "boxes must be a list of Region values, and no NoneType"),
        ({"boxes": [BOX, (0, 0, 1, 1)]}, TYPES, "boxes[1] must be a Region(x0, y0, x1, y1), and no tuple"),
        ({"boxes": [Region(0, 0, "1", 1)]}, TYPES, "boxes[0].x1 is '1'; it must be a number from 0 to 1"),  # type: ignore[arg-type]
        ({"boxes": [Region(0, 0, 1, None)]}, TYPES, "boxes[0].y1 is None; it must be a number from 0 to 1"),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("bulk", [False, True])
def test_regions_to_embed(
    call: Callable[..., Any], options: dict[str, Any], kind: type[Exception], message: str, *, bulk: bool
) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call("embedder", "embed_regions", b"image", **options, bulk=bulk)


@pytest.mark.parametrize(("max_regions", "kind"), [("3", TYPES), (-(2**31) - 1, VALUES)])
def test_the_number_of_regions_of_a_stream_and_of_a_collection(
    call: Callable[..., Any], max_regions: Any, kind: type[Exception]
) -> None:
    message = f"^max_regions is {max_regions!r}; {MAX_REGIONS}$"
    with pytest.raises(kind, match=message):
        call("embedder", "embed_many_regions", [b"image"], max_regions=max_regions)
    with pytest.raises(kind, match=message):
        call("search", "create_collection", "c", dimension=2, fingerprint="f", max_regions=max_regions)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"match": "region"}, VALUES, "match is 'region'; it must be images, regions or all"),
        ({"match": None}, VALUES, "match is None; it must be images, regions or all"),
        ({"match": []}, VALUES, "match is []; it must be images, regions or all"),
        ({"auto_crop": "yes"}, TYPES, "auto_crop is 'yes'; it must be True or False"),
        ({"auto_crop": None}, TYPES, "auto_crop is None; it must be True or False"),
    ],
)
@pytest.mark.parametrize("method", ["search", "search_explained", "search_all", "search_many"])
def test_options_of_searches(
    call: Callable[..., Any], method: str, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    query = [QUERY] if method == "search_many" else QUERY
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call("search", method, "c", query, **options)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((0, 0, 1, 1), "region must be a Region(x0, y0, x1, y1), and no tuple"),
        ("0,0,1,1", "region must be a Region(x0, y0, x1, y1), and no str"),
        (Region(0, "a", 1, 1), "region.y0 is 'a'; it must be a number from 0 to 1"),  # type: ignore[arg-type]
    ],
)
def test_the_region_of_a_query(call: Callable[..., Any], region: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        call("search", "search_by_image", "c", b"image", region=region)


@pytest.mark.parametrize(
    ("regions", "kind", "message"),
    [
        (None, TYPES, "regions must be a list of RegionEmbedding values, and no NoneType"),
        (RegionEmbedding(BOX, VECTOR), TYPES, "regions must be a list of RegionEmbedding values, and no RegionEmb"),
        (
            [RegionEmbedding(BOX, VECTOR), BOX],
            TYPES,
            "regions[1] must be a RegionEmbedding(box, embedding), and no Reg",
        ),
        ([(BOX, VECTOR)], TYPES, "regions[0] must be a RegionEmbedding(box, embedding), and no tuple"),
        ([RegionEmbedding(BOX, [1, 2])], TYPES, "regions[0].embedding must be an Embedding, and no list"),  # type: ignore[arg-type]
        ([RegionEmbedding((0, 0, 1, 1), VECTOR)], TYPES, "regions[0].box must be a Region(x0, y0, x1, y1), and no"),  # type: ignore[arg-type]
        ([RegionEmbedding(BOX, VECTOR, "1")], TYPES, "regions[0].saliency is '1'; it must be a number"),  # type: ignore[arg-type]
        ([RegionEmbedding(BOX, Embedding([1], "g"))], VALUES, "regions[0] has the fingerprint 'g'; it must have that"),
    ],
)
def test_regions_to_write(regions: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        write_request(NewImage("a", VECTOR, regions=regions), "c")


def test_numbers_of_numpy_are_numbers() -> None:
    numbers = np.array([0, 0.25, 0.5, 1], np.float32)
    region = RegionEmbedding(Region(*numbers), VECTOR, numbers[1])
    (message,) = write_request(NewImage("a", VECTOR, regions=[region]), "c").regions
    assert (message.box.x0, message.box.y0, message.box.x1, message.box.y1) == (0, 0.25, 0.5, 1)
    assert message.saliency == 0.25
    assert search_request("c", ImageFile(b"", Region(*numbers)), {}).query.image.region == message.box
