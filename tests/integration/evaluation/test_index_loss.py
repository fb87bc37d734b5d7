"""The loss of an approximate index on a Milvus server."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient

from imagesearch_client import Client, Embedding, Index, IvfParameters, NewImage
from tests.harness.command import Command

IMAGES, QUERIES, DIMENSION, NEAREST = 3000, 200, 32, 10


def vectors() -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Return random vectors, whose neighbors are in several clusters of the index."""
    return np.random.default_rng(3).normal(size=(IMAGES, DIMENSION)).astype(np.float32)


def write_pairs(path: Path) -> None:
    """Write the true nearest images as right answers, so that the vectors are perfect."""
    unit = vectors() / np.linalg.norm(vectors(), axis=1, keepdims=True)
    order = np.argsort(-(unit[:QUERIES] @ unit.T), axis=1)
    lines = [f"i{query:05d},i{hit:05d}\n" for query, row in enumerate(order) for hit in row[1 : NEAREST + 1]]
    path.write_text("query,relevant\n" + "".join(lines))


def build_index(uri: str, name: str) -> None:
    milvus = MilvusClient(uri)
    milvus.flush(name)
    while milvus.describe_index(name, "vector")["indexed_rows"] < IMAGES:
        time.sleep(0.05)
    # Before the collection is loaded again, Milvus may search rows that are not in the index.
    milvus.release_collection(name)
    milvus.load_collection(name)
    milvus.close()


@pytest.mark.timeout(600)
def test_evaluate_separates_the_loss_of_the_index_from_that_of_the_vectors(
    milvus_uri: str, server_address: str, command: Command, tmp_path: Path
) -> None:
    name = "index_loss"
    with Client(server_address, timeout=120) as client:
        client.create_collection(
            name, dimension=DIMENSION, fingerprint="random", index=Index.IVF_FLAT, index_parameters=IvfParameters(64)
        )
        images = (
            NewImage(f"i{number:05d}", Embedding(vector.tolist(), "random")) for number, vector in enumerate(vectors())
        )
        assert all(result.error is None for result in client.write(name, images))
        build_index(milvus_uri, name)
        pairs = tmp_path / "pairs.csv"
        write_pairs(pairs)
        found = {}
        for clusters in ("1", "64"):
            arguments = ("--labels", pairs, "--nprobe", clusters, "--target", server_address)
            found[clusters] = json.loads(command("evaluate", "-c", name, *arguments, "--json").splitlines()[0])
        client.delete_collection(name)
    few, all_of_them = found["1"], found["64"]
    assert few["index"] == "ivf_flat"
    for figures in found.values():
        assert figures["queries"] == QUERIES
        # The vectors lose nothing with any index.
        assert figures["exact"]["mAP"]["mean"] == figures["exact"]["recall@10"]["mean"] == 1
    # A search of all clusters is exact. One cluster contains only some of the neighbors.
    assert all_of_them["agreement"]["agreement@10"]["mean"] == pytest.approx(1, abs=0.001)
    assert all_of_them["through_index"]["recall@10"]["mean"] == pytest.approx(1, abs=0.001)
    assert few["agreement"]["agreement@10"]["high"] < 0.8
    assert few["through_index"]["recall@10"] == pytest.approx(few["agreement"]["agreement@10"])
