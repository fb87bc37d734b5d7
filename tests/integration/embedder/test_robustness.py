"""Broken files of many kinds: each is answered, and other calls are not affected."""

import re
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from itertools import count
from pathlib import Path

import grpc
import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2
from PIL import Image

from grpc_kit.health import is_serving
from tests.integration.embedder.helpers import (
    SAME,
    Embedder,
    Stub,
    answers,
    cosine,
    embed_request,
    info_of,
    item,
    png,
    status_of,
    until,
    vector_of,
)
from tests.integration.embedder.mutations import Mutation, mutations

SEED = 1
CHUNK = 40
NEIGHBOURS = ["astronaut.png", "chelsea.png", "coffee.png", "page.png"]
API = Path(__file__).parents[3] / "docs" / "reference" / "api.md"


@pytest.fixture(scope="module")
def reasons() -> set[str]:
    """What docs/reference/api.md says can be wrong with an image."""
    found = set(re.findall(r"^\| `(IMAGE_[A-Z_]+)` \| INVALID_ARGUMENT", API.read_text(), re.MULTILINE))
    assert {"IMAGE_CORRUPT", "IMAGE_FORMAT_UNSUPPORTED"} <= found
    return found


def what_is_wrong(response: embedder_pb2.EmbedStreamResponse, reasons: set[str]) -> str:
    """What an answer should not have been; empty where it is fine."""
    if response.WhichOneof("result") == "embedding":
        values = np.array(response.embedding.values)
        return "" if values.shape == (512,) and np.isfinite(values).all() else f"a vector {values}"
    status = response.error
    fine = status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0] and info_of(status).reason in reasons
    return "" if fine else f"{status.code} {info_of(status).reason}: {status.message}"


@pytest.mark.alone
@pytest.mark.parametrize("mutated", [80, pytest.param(None, marks=pytest.mark.soak)], ids=["some", "many"])
async def test_mutated_files_are_answered_and_do_not_affect_others(
    mutated: int | None,
    stub: Stub,
    embedder: Embedder,
    photographs: Mapping[str, bytes],
    reasons: set[str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    neighbors = {name: png(Image.open(BytesIO(photographs[name])).resize((48, 32))) for name in NEIGHBOURS}
    alone = {name: await vector_of(stub, content) for name, content in neighbors.items()}
    assert all(cosine(alone[a], alone[b]) < 0.99 for a in NEIGHBOURS for b in NEIGHBOURS if a != b)
    process_id, memory_before = embedder.process_id, embedder.memory("VmRSS")

    outcomes: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    # What follows the end of a PNG file is not looked at, but makes it another file: equal ones are embedded once.
    another = count()
    files = list(mutations(mutated or request.config.getoption("--mutations", default=600), SEED))
    for begin in range(0, len(files), CHUNK):
        chunk = {mutation.name: mutation for mutation in files[begin : begin + CHUNK]}
        items = [item(name, mutation.content) for name, mutation in chunk.items()]
        for position, (name, content) in enumerate(neighbors.items()):
            items.insert(position * 10, item(name, content + str(next(another)).encode()))
        responses = {response.request_id: response for response in await answers(stub, items, timeout=60)}
        assert responses.keys() == chunk.keys() | neighbors.keys()
        for name in neighbors:
            assert cosine(responses.pop(name).embedding.values, alone[name]) >= SAME
        for name, response in responses.items():
            outcomes[info_of(response.error).reason if response.HasField("error") else "embedded"] += 1
            if what_is_wrong(response, reasons):
                wrong[name] = what_is_wrong(response, reasons)
                keep(chunk[name], tmp_path)
    print(f"{outcomes}; {memory_before} MiB before, {embedder.memory('VmRSS')} after")  # noqa: T201 - for `pytest -rP`

    assert wrong == {}, f"the files are in {tmp_path}"
    assert outcomes["embedded"] > 0
    assert outcomes["IMAGE_CORRUPT"] > 0
    assert outcomes.total() == len(files)
    assert embedder.process_id == process_id
    with grpc.insecure_channel(embedder.address, [("grpc.enable_http_proxy", 0)]) as channel:
        assert is_serving(channel, timeout=5)
    assert embedder.in_flight("bulk") == 0
    assert "call failed" not in embedder.log.read_text()
    # What the large ones took goes back to the system when the service gives it back.
    await until(lambda: embedder.memory("VmRSS") <= memory_before + 150)


def keep(mutation: Mutation, folder: Path) -> None:
    (folder / mutation.name.split(":")[0]).write_bytes(mutation.content)


async def test_embed_answers_mutated_files_like_a_stream(stub: Stub, reasons: set[str]) -> None:
    files = list(mutations(20, SEED + 1))
    streamed = {
        response.request_id: response
        for response in await answers(stub, [item(mutation.name, mutation.content) for mutation in files], timeout=60)
    }
    for mutation in files:
        alone = await answer(stub, mutation)
        assert what_is_wrong(alone, reasons) == "", mutation.name
        assert alone.error == streamed[mutation.name].error, mutation.name
        if alone.HasField("embedding"):
            same = cosine(alone.embedding.values, streamed[mutation.name].embedding.values)
            assert same >= SAME, mutation.name


async def answer(stub: Stub, mutation: Mutation) -> embedder_pb2.EmbedStreamResponse:
    """What Embed says, as a stream would say it."""
    try:
        response = await stub.Embed(embed_request(mutation.content), timeout=30)
    except grpc.aio.AioRpcError as error:
        return embedder_pb2.EmbedStreamResponse(error=status_of(error))
    return embedder_pb2.EmbedStreamResponse(embedding=response.embedding)
