"""Every method of the blocking and of the asynchronous clients, on real services."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagesearch_client import (
    AlreadyExistsError,
    AsyncClient,
    AsyncEmbedderClient,
    Client,
    EmbedderClient,
    Embedding,
    Examples,
    FailedPreconditionError,
    HnswParameters,
    ImageFile,
    Index,
    InvalidArgumentError,
    Metric,
    NewImage,
    NotFoundError,
    Region,
    StoredImage,
    equals,
)
from tests.integration.client.conftest import FORMS, Calls, broken, opened, vector

VECTORS = {"dimension": 2, "fingerprint": "test"}


async def fill(client: Calls, name: str, count: int = 5) -> None:
    """Make a collection of vectors: i0 to the east, the last one to the north."""
    await client.create_collection(name, **VECTORS)
    images = [
        NewImage(f"i{number}", vector(count - 1 - number, number), attributes={"even": number % 2 == 0})
        for number in range(count)
    ]
    results = await client.write(name, images)
    assert [result.error for result in results] == [None] * count


async def test_collections_and_aliases(client: Calls, name: str) -> None:
    made = await client.create_collection(name, **VECTORS, metric="ip", ttl=timedelta(days=1), labels={"team": "a"})
    assert (made.metric, made.dimension, made.ttl, made.labels) == (Metric.IP, 2, timedelta(days=1), {"team": "a"})
    assert await client.get_collection(name) == made
    assert made in await client.list_collections()
    assert await client.set_alias(f"{name}_alias", name) == ""
    assert (await client.list_aliases())[f"{name}_alias"] == name
    assert (await client.get_collection(f"{name}_alias")).name == name
    await client.delete_alias(f"{name}_alias")
    await client.delete_collection(name)
    with pytest.raises(NotFoundError):
        await client.get_collection(name)
    assert await client.is_serving()


async def test_create_collection_can_return_the_existing_collection(client: Calls, name: str) -> None:
    settings: dict[str, Any] = {**VECTORS, "metric": Metric.L2, "description": "shoes", "labels": {"team": "a"}}
    with pytest.raises(AlreadyExistsError):
        await asyncio.gather(*(client.create_collection(name, **settings) for _ in range(2)))
    made = await client.create_collection(name, **settings, exist_ok=True)
    assert made == await client.get_collection(name)
    assert made == await client.create_collection(name, **VECTORS, metric=Metric.L2, exist_ok=True)
    index = {"index": Index.HNSW, "index_parameters": HnswParameters(16, 200)}
    assert made == await client.create_collection(name, **settings, **index, exist_ok=True)
    differing: dict[str, dict[str, Any]] = {
        "dimension": {"dimension": 3},
        "fingerprint": {"fingerprint": "other"},
        "metric": {"metric": Metric.IP},
        "index": {"index": Index.FLAT},
        "index_parameters": {"index_parameters": HnswParameters(32, 200), "index": Index.HNSW},
        "ttl": {"ttl": timedelta(days=1)},
        "consistency": {"consistency": "strong"},
        "description": {"description": "boots"},
        "labels": {"labels": {"team": "b"}},
    }
    for field, changes in differing.items():
        with pytest.raises(FailedPreconditionError, match=f"exists with {field} ") as caught:
            await client.create_collection(name, **settings | changes, exist_ok=True)
        assert (caught.value.reason, caught.value.field) == ("COLLECTION_DIFFERS", f"collection.{field}")


async def test_existing_collections_of_a_model_are_compared_with_the_default_model(client: Calls, name: str) -> None:
    made = await client.create_collection(name, exist_ok=True)
    assert made == await client.create_collection(name, exist_ok=True)
    assert made == await client.create_collection(name, model="MobileNet", exist_ok=True)
    with pytest.raises(FailedPreconditionError, match="exists with model mobilenet, not mobilenet-max"):
        await client.create_collection(name, model="mobilenet-max", exist_ok=True)


async def test_many_clients_can_create_one_collection_at_the_same_time(lite_address: str, name: str) -> None:
    async with AsyncClient(lite_address) as client:
        made = await asyncio.gather(*(client.create_collection(name, **VECTORS, exist_ok=True) for _ in range(12)))  # type: ignore[arg-type]
        assert made == [await client.get_collection(name)] * 12


async def test_reading_changing_and_deleting_images(client: Calls, name: str) -> None:
    await fill(client, name)
    image = await client.get(name, "i4", with_vector=True, strong=True)
    assert image.embedding == vector(0, 4)
    assert image.embedding.values.dtype == np.float32
    assert (await client.get(name, "i4")).embedding is None
    assert list(await client.get_many(name, ["i3", "nobody", "i1", "i3"])) == ["i3", "i1"]
    each = await client.get_each(name, ["i3", "nobody"])
    assert [(image_id, found and found.id) for image_id, found in each] == [("i3", "i3"), ("nobody", None)]
    assert [found.id for found in await client.list(name, page_size=2, strong=True)] == ["i0", "i1", "i2", "i3", "i4"]
    images, token = await client.list_page(name, page_size=3, where=equals("even", True), strong=True)
    assert ([found.id for found in images], token) == (["i0", "i2", "i4"], "")
    changed = await client.update(name, "i0", uri="u", attributes={"price": 5}, remove=["even"])
    assert (changed.uri, changed.attributes) == ("u", {"price": 5})
    assert await client.count(name, where=equals("even", True)) == 2
    assert await client.delete_where(name, equals("even", False), dry_run=True) == 2
    assert await client.delete_where(name, equals("even", False)) == 2
    progress: list[int] = []
    assert await client.delete(name, ["i0", "nobody"], dry_run=True) == 1
    assert await client.delete(name, ["i0", "nobody", "i0"], on_progress=progress.append) == 1
    assert (progress, await client.count(name)) == ([1], 2)


async def test_searches(client: Calls, name: str) -> None:
    await fill(client, name)
    north = vector(0, 1)

    async def ids(found: Awaitable[Any]) -> list[str]:
        return [hit.image.id for hit in await found]

    assert await ids(client.search(name, north, limit=2, strong=True)) == ["i4", "i3"]
    assert await ids(client.search_by_vector(name, north, limit=1, strong=True)) == ["i4"]
    assert await ids(client.search_by_id(name, "i4", limit=1, strong=True)) == ["i3"]
    assert await ids(client.search(name, Examples([StoredImage("i0")], [north]), limit=1, strong=True)) == ["i1"]
    assert await ids(client.search_all(name, north, limit=2, strong=True)) == ["i4", "i3", "i2", "i1", "i0"]
    hits, explanation = await client.search_explained(name, north, limit=1, strong=True)
    assert (hits[0].image.id, explanation.index) == ("i4", Index.FLAT)
    assert "<td" in hits._repr_html_()


async def test_queries_and_images_are_bytes_paths_and_arrays(
    client: Calls, name: str, photographs: dict[str, Path]
) -> None:
    await client.create_collection(name)
    coffee, rocket = photographs["coffee"], photographs["rocket"]
    sources: list[Any] = [
        coffee,
        coffee.read_bytes(),
        np.fromfile(rocket, np.uint8),
        Path("/nobody.jpg"),
        rocket.read_bytes(),
    ]
    images = [NewImage(f"i{number}", source) for number, source in enumerate(sources)]
    results = {result.id: result for result in await client.write(name, images)}
    assert results["i3"].error.reason == "FILE_UNREADABLE"
    assert "No such file" in results["i3"].error.message
    assert results["i0"].content_sha256 == results["i1"].content_sha256 != results["i2"].content_sha256
    for query in (coffee, coffee.read_bytes(), np.fromfile(coffee, np.uint8), memoryview(coffee.read_bytes())):
        hits = await client.search_by_image(name, query, limit=4, strong=True)
        assert [hit.image.id for hit in hits] in (["i0", "i1", "i2", "i4"], ["i1", "i0", "i2", "i4"])
    with pytest.raises(FileNotFoundError):
        await client.search_by_image(name, Path("/nobody.jpg"))
    with pytest.raises(TypeError, match=r"this array has shape \(2, 2, 3\)"):
        await client.search_by_image(name, np.zeros((2, 2, 3), np.uint8))


async def test_many_searches_over_one_stream(client: Calls, name: str) -> None:
    await fill(client, name)
    queries = [vector(0, 1), StoredImage("nobody"), "no query", StoredImage("i0")]
    answers = dict(await client.search_many(name, queries, limit=1, strong=True))
    assert [hit.image.id for number in (0, 3) for hit in answers[number]] == ["i4", "i1"]
    assert [answers[number].reason for number in (1, 2)] == ["IMAGE_NOT_FOUND", "VALUE_INVALID"]
    with pytest.raises(TypeError, match="unknown search options: k;"):
        await client.search_many(name, queries, k=3)


async def test_an_error_of_the_callers_items_is_raised_after_the_results(client: Calls, name: str) -> None:
    await client.create_collection(name, **VECTORS)
    with pytest.raises(RuntimeError, match="the caller's own error"):
        await client.write(name, broken([NewImage("a", vector(1, 0)), NewImage("b", vector(0, 1))]))
    assert await client.count(name) == 2
    with pytest.raises(RuntimeError, match="the caller's own error"):
        await client.search_many(name, broken([StoredImage("a")]))


async def test_items_that_cannot_be_sent_have_results_and_the_others_are_written(client: Calls, name: str) -> None:
    await client.create_collection(name, **VECTORS)
    images = [
        NewImage("good", vector(1, 0)),
        NewImage("number", vector(1, 0), attributes={"n": 2**63}),
        NewImage("large", b"x" * (24 * 1024 * 1024)),
        NewImage("last", vector(1, 0), attributes={"n": None}),  # type: ignore[dict-item]
    ]
    results = await client.write(name, images)
    reasons = {result.id: result.error and result.error.reason for result in results}
    invalid = "VALUE_INVALID"
    assert reasons == {"good": None, "number": invalid, "large": "IMAGE_TOO_LARGE", "last": invalid}
    assert await client.write(name, []) == []
    (missing,) = await client.write(f"{name}_missing", images[:1])
    assert missing.error.reason == "COLLECTION_NOT_FOUND"


async def test_the_caller_may_stop_before_the_last_result(client: Calls, name: str) -> None:
    await client.create_collection(name, **VECTORS)
    endless = (NewImage(f"i{number}", vector(1, number)) for number in range(10**9))
    results = client.client.write(name, endless)
    if isinstance(results, AsyncIterator):
        assert (await anext(results)).error is None
        await results.aclose()  # type: ignore[attr-defined]
    else:
        assert next(results).error is None
        results.close()
    assert await client.count(name) >= 1


async def test_the_asynchronous_client_accepts_asynchronous_items(lite_address: str, name: str) -> None:
    async def images() -> AsyncIterator[NewImage]:
        for number in range(3):
            await asyncio.sleep(0)
            yield NewImage(f"i{number}", vector(1, number))

    async def fails() -> AsyncIterator[NewImage]:
        async for image in images():
            yield image
        raise RuntimeError("the caller's own error")

    async with AsyncClient(lite_address) as client:
        await client.create_collection(name, dimension=2, fingerprint="test")
        assert [result.error async for result in client.write(name, images())] == [None] * 3
        with pytest.raises(RuntimeError, match="the caller's own error"):
            async for _ in client.write(name, fails()):
                pass


async def test_an_iterator_that_blocks_does_not_block_the_event_loop(lite_address: str, name: str) -> None:
    loop = asyncio.get_running_loop()
    turn = asyncio.Event()

    def images() -> Iterator[NewImage]:
        yield NewImage("a", vector(1, 0))
        # It ends only if the event loop runs meanwhile.
        asyncio.run_coroutine_threadsafe(turn.wait(), loop).result(60)
        yield NewImage("b", vector(1, 0))

    async with AsyncClient(lite_address) as client:
        await client.create_collection(name, dimension=2, fingerprint="test")
        ids = []
        async for result in client.write(name, images()):
            ids.append(result.id)
            turn.set()
        assert ids == ["a", "b"]


async def test_reindexing_step_by_step(client: Calls, name: str) -> None:
    await fill(client, name)
    await client.create_collection(f"{name}_2", **VECTORS)
    begin = await client.start_reindex(name, f"{name}_2")
    assert begin.tzinfo is not None
    await client.cancel_reindex(name)
    await client.start_reindex(name, f"{name}_2")
    with pytest.raises(FailedPreconditionError) as caught:
        await client.finish_reindex(name, [f"{name}_live"])
    assert caught.value.reason == "HOLD_EXPIRED"
    await client.write(f"{name}_2", [NewImage("i0", vector(1, 0))])
    await client.hold_writes(name, timedelta(seconds=30))
    moved = await client.finish_reindex(name, [f"{name}_live"], allow_fewer=True)
    assert moved == {f"{name}_live": ""}


async def test_binary_codes(server_address: str, name: str) -> None:
    rows = np.random.default_rng(1).normal(size=(64, 65)).astype(np.float32)
    async for client in opened("asynchronous", lambda: None, lambda: AsyncClient(server_address)):
        await client.create_collection(name, dimension=64, fingerprint="test")
        await client.write(name, [NewImage(f"i{n}", Embedding(row[:64], "test")) for n, row in enumerate(rows)])
        made = await client.create_codes(name, rows)
        assert (made.bits, made.ready) == (64, False)
        assert (await client.encode_images(name))[-1].codes.ready
        assert (await client.get_codes(name)).sets[0].code_count == 64
        await client.delete_codes(name)
        assert (await client.get_codes(name)).sets == []


async def test_the_embedder_describes_its_models(embedder: Calls) -> None:
    models = await embedder.list_models()
    assert [model.name for model in models] == [
        "mobilenet",
        "mobilenet-max",
        "mobilenet-max-native256",
        "vgg16",
        "vgg16-max-native",
    ]
    default = await embedder.get_model()
    assert (default.name, default.is_default, default.dimension) == ("mobilenet", True, 1024)
    assert await embedder.get_model("VGG16") == models[3]
    assert default.max_image_bytes > 0
    assert await embedder.is_serving()
    with pytest.raises(NotFoundError):
        await embedder.get_model("nobody")


async def test_the_embedder_embeds_bytes_paths_arrays_and_regions(
    embedder: Calls, photographs: dict[str, Path]
) -> None:
    path = photographs["coffee"]
    found = await embedder.embed(path)
    assert (found.values.dtype, found.values.shape) == (np.float32, (1024,))
    assert found.fingerprint == (await embedder.get_model()).fingerprint
    for same in (path.read_bytes(), np.fromfile(path, np.uint8), ImageFile(path)):
        np.testing.assert_allclose((await embedder.embed(same)).values, found.values, atol=1e-5)
    np.testing.assert_allclose((await embedder.embed(path, bulk=True)).values, found.values, atol=1e-5)
    part = await embedder.embed(ImageFile(path, Region(0, 0, 0.5, 0.5)))
    assert np.abs(part.values - found.values).max() > 0.01
    other = await embedder.embed(path, model="mobilenet-max")
    assert other.fingerprint != found.fingerprint
    for bulk in (False, True):
        with pytest.raises(InvalidArgumentError, match="image"):
            await embedder.embed(b"no image", bulk=bulk)


async def test_the_embedder_embeds_streams(embedder: Calls, photographs: dict[str, Path]) -> None:
    path = photographs["coffee"]
    found = dict(await embedder.embed_many([path, b"no image", Path("/nobody"), path.read_bytes()]))
    assert [found[number].reason for number in (1, 2)] == ["IMAGE_FORMAT_UNSUPPORTED", "FILE_UNREADABLE"]
    np.testing.assert_allclose(found[0].values, found[3].values, atol=1e-5)
    with pytest.raises(RuntimeError, match="the caller's own error"):
        await embedder.embed_many(broken([path]))


@pytest.mark.parametrize("form", FORMS)
async def test_clients_with_the_settings_of_the_environment(
    form: str, lite_address: str, embedder_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESEARCH_TARGET", lite_address)
    monkeypatch.setenv("IMAGESEARCH_EMBEDDER", embedder_address)
    async for client in opened(form, Client.from_env, AsyncClient.from_env):
        assert client.client.target == lite_address
        assert await client.is_serving()
    async for embedder in opened(form, EmbedderClient.from_env, AsyncEmbedderClient.from_env):
        assert (await embedder.get_model()).name == "mobilenet"
