"""The precision and the threads of a process, and the check of its vectors at start."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

import embedder_service
from tests.integration.embedder.helpers import Embedder, StartEmbedder, Vectors, cosines, vectors_by


@pytest.fixture(scope="module")
def bfloat16_embedder(start_embedder: StartEmbedder, published_weights: Path) -> Iterator[Embedder]:
    """An embedder in bfloat16, on one of the processors that the tests have."""
    with on_one_processor():
        start = start_embedder(weights=str(published_weights), precision="bfloat16")
        service = start.__enter__()
    yield service
    start.__exit__(None, None, None)


@contextmanager
def on_one_processor() -> Iterator[None]:
    """What `taskset -c` does for the processes that are started meanwhile."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


@pytest.fixture(scope="module")
def bfloat16_vectors(bfloat16_embedder: Embedder, photographs: Mapping[str, bytes]) -> Vectors:
    """Of some: a processor without instructions for bfloat16 takes long for each."""
    return vectors_by(bfloat16_embedder, dict(list(photographs.items())[:4]))


def model_of(embedder: Embedder) -> embedder_pb2.Model:
    with grpc.insecure_channel(embedder.address, [("grpc.enable_http_proxy", 0)]) as channel:
        return embedder_pb2_grpc.EmbedderServiceStub(channel).GetModel(embedder_pb2.GetModelRequest()).model


def test_bfloat16_vectors_are_close_to_float32(bfloat16_vectors: Vectors, exact_vectors: Vectors) -> None:
    exact = exact_vectors.values[: len(bfloat16_vectors.names)]
    assert cosines(bfloat16_vectors.values, exact).min() >= 0.999
    assert np.abs(bfloat16_vectors.values - exact).max() > 1e-5


def test_vectors_of_both_precisions_have_one_fingerprint(bfloat16_vectors: Vectors, exact_vectors: Vectors) -> None:
    assert set(bfloat16_vectors.fingerprints) == set(exact_vectors.fingerprints)


def test_get_model_reports_how_it_runs(embedder: Embedder, exact_embedder: Embedder) -> None:
    for service, precisions, size in (
        (embedder, {"float32", "bfloat16"}, 4),
        (exact_embedder, {"float32"}, 2),
    ):
        model = model_of(service)
        assert model.precision in precisions
        assert 1 <= model.execution.threads <= len(os.sched_getaffinity(0))
        assert 0 < model.execution.seconds_per_image < 5
        assert model.execution.max_batch_size == size


def test_a_process_on_one_processor_uses_one_thread(bfloat16_embedder: Embedder) -> None:
    model = model_of(bfloat16_embedder)
    assert (model.precision, model.execution.threads, model.execution.max_batch_size) == ("bfloat16", 1, 2)
    assert bfloat16_embedder.metric("embedder_model_info", precision="bfloat16", threads="1") == 1


def test_a_model_with_wrong_golden_vectors_is_not_served(published_weights: Path, tmp_path: Path) -> None:
    package = tmp_path / "embedder_service"
    shutil.copytree(Path(embedder_service.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    path = package / "adapters" / "golden" / "vgg16.npz"
    with np.load(path) as file:
        golden = dict(file)
    golden["pixels"] = golden["pixels"][:, :, ::-1]
    np.savez_compressed(path, **golden)
    environment = {
        "EMBEDDER_WEIGHTS": str(published_weights),
        "EMBEDDER_LISTEN_ADDRESS": "127.0.0.1:0",
        "EMBEDDER_PRECISION": "float32",
        "EMBEDDER_MAX_BATCH_SIZE": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "embedder_service"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "wrong vectors on this machine" in ended.stderr
    assert "serving" not in ended.stderr
