"""One embedder with several models: heads of one network, another network, an encoder."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from keras.applications import vgg16
from numpy.typing import NDArray
from PIL import Image

from embedder_service.adapters import model_loading
from embedder_service.adapters.weights_files import WeightsError
from embedder_service.bootstrap import load_models
from embedder_service.settings import EmbedderSettings
from grpc_kit.channel import open_blocking_channel
from tests.integration.embedder.helpers import Embedder, StartEmbedder, Stub, answers, channel_to, cosines

MEBIBYTE = 1024 * 1024
ENCODER_SIDE, LATENT = 32, 5
MODELS = ("vgg16", "vgg16-max", "vgg16-gem", "vgg16-rmac", "vgg16-flatten", "vgg16-rmac-native256", "mobilenet", "tiny")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `imagesearch train-autoencoder` writes it."""
    folder = tmp_path_factory.mktemp("encoder")
    keras.utils.set_random_seed(3)
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((ENCODER_SIDE, ENCODER_SIDE, 3)),
            layers.Conv2D(4, 3, strides=4, activation="relu"),
            layers.Flatten(),
            layers.Dense(LATENT),
        ]
    )
    network.save(folder / "encoder.keras")
    facts = {
        "format": 1,
        "kind": "encoder",
        "name": "tiny",
        "input_size": ENCODER_SIDE,
        "dimension": LATENT,
        "pixels": "0..1",
        "input": "squash",
        "normalisation": "none",
        "metric": "L2",
        "encoder_sha256": hashlib.sha256((folder / "encoder.keras").read_bytes()).hexdigest(),
    }
    (folder / "model.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def served(encoder: Path, start_embedder: StartEmbedder) -> Iterator[Embedder]:
    models = ",".join([*MODELS[:-1], f"tiny={encoder}"])
    with start_embedder(models=models, precision="float32") as service:
        yield service


@pytest.fixture(scope="module")
def images(photographs: Mapping[str, bytes]) -> list[bytes]:
    files = []
    for content in list(photographs.values())[:3]:
        file = BytesIO()
        Image.open(BytesIO(content)).convert("RGB").resize((320, 240)).save(file, "PNG")
        files.append(file.getvalue())
    return files


def embedded(service: Embedder, model: str, images: list[bytes]) -> NDArray[np.float32]:
    with open_blocking_channel(service.address, 20 * MEBIBYTE) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        found = [
            stub.Embed(
                embedder_pb2.EmbedRequest(model=model, image=encoded_image_pb2.EncodedImage(content=content)),
                timeout=60,
            )
            for content in images
        ]
    return np.array([list(answer.embedding.values) for answer in found], np.float32)


def pixels(images: list[bytes], width: int, height: int) -> NDArray[np.float32]:
    resized = (Image.open(BytesIO(content)).resize((width, height), Image.Resampling.BILINEAR) for content in images)
    return np.stack([np.asarray(image, np.float32) for image in resized])


def feature_maps(published_weights: Path, images: list[bytes], width: int, height: int) -> NDArray[np.float32]:
    """VGG16's last feature maps by Keras."""
    network = vgg16.VGG16(include_top=False, weights=str(published_weights), input_shape=(height, width, 3))
    maps: NDArray[np.float32] = network.predict(vgg16.preprocess_input(pixels(images, width, height)), verbose=0)
    return maps


def rmac(maps: NDArray[np.float32], squares: list[tuple[int, int, int]]) -> NDArray[np.float32]:
    total = np.zeros((len(maps), maps.shape[3]), np.float32)
    for top, left, side in squares:
        maxima = maps[:, top : top + side, left : left + side].max(axis=(1, 2))
        total += maxima / np.linalg.norm(maxima, axis=1, keepdims=True)
    return total


# Of a map of 7 x 7: the whole, four of 4 x 4, nine of 3 x 3.
SQUARES = [
    (0, 0, 7),
    *((top, left, 4) for top in (0, 3) for left in (0, 3)),
    *((top, left, 3) for top in (0, 2, 4) for left in (0, 2, 4)),
]


def test_each_head_computes_its_formula_from_the_feature_map(
    served: Embedder, published_weights: Path, images: list[bytes]
) -> None:
    maps = feature_maps(published_weights, images, 224, 224)
    expected = {
        "vgg16": maps.mean(axis=(1, 2)),
        "vgg16-max": maps.max(axis=(1, 2)),
        "vgg16-gem": np.cbrt((np.maximum(maps, 1e-6) ** 3).mean(axis=(1, 2))),
        "vgg16-rmac": rmac(maps, SQUARES),
        "vgg16-flatten": maps.reshape(len(maps), -1),
    }
    for name, vectors in expected.items():
        assert cosines(embedded(served, name, images), vectors).min() > 0.9999, name


def test_native_keeps_the_shape_of_the_image(served: Embedder, published_weights: Path, images: list[bytes]) -> None:
    # 320 x 240 at most 256: 256 x 192, so that the map has 8 x 6 cells, with two regions along its width.
    maps = feature_maps(published_weights, images, 256, 192)
    assert maps.shape[1:3] == (6, 8)
    squares = [
        *((0, left, 6) for left in (0, 2)),
        *((top, left, 4) for top in (0, 2) for left in (0, 2, 4)),
        *((top, left, 3) for top in (0, 1, 3) for left in (0, 1, 3, 5)),
    ]
    assert cosines(embedded(served, "vgg16-rmac-native256", images), rmac(maps, squares)).min() > 0.9999


def test_an_encoder_returns_its_latent_values(served: Embedder, encoder: Path, images: list[bytes]) -> None:
    network: Any = keras.models.load_model(encoder / "encoder.keras")
    expected = network.predict(pixels(images, ENCODER_SIDE, ENCODER_SIDE) / 255, verbose=0)
    np.testing.assert_allclose(embedded(served, "tiny", images), expected, atol=1e-5)


async def test_a_stream_may_name_another_model_for_each_image(served: Embedder, images: list[bytes]) -> None:
    async with channel_to(served) as channel:
        stub: Stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        requests = [
            embedder_pb2.EmbedStreamRequest(
                request_id=f"{model}/{n}", model=model, image=encoded_image_pb2.EncodedImage(content=content)
            )
            for n, content in enumerate(images)
            for model in (*MODELS, "vgg20")
        ]
        found = {answer.request_id: answer for answer in await answers(stub, requests)}
        models = (await stub.ListModels(embedder_pb2.ListModelsRequest())).models
    dimensions = {model.name: model.dimension for model in models}
    assert dimensions == {
        **dict.fromkeys(MODELS, 512),
        "vgg16-flatten": 25088,
        "mobilenet": 1024,
        "tiny": LATENT,
    }
    for name, answer in found.items():
        model = name.partition("/")[0]
        if model == "vgg20":
            assert "no model is called 'vgg20'" in answer.error.message
        else:
            assert len(answer.embedding.values) == dimensions[model]
    assert {m.fingerprint for m in models} == {
        a.embedding.fingerprint for a in found.values() if not a.HasField("error")
    }


def test_each_model_has_its_own_batches_and_reports_its_memory(served: Embedder, images: list[bytes]) -> None:
    before = {model: served.metric("embedder_batch_size_sum", model=model) for model in MODELS}
    embedded(served, "mobilenet", images[:3])
    after = {model: served.metric("embedder_batch_size_sum", model=model) for model in MODELS}
    assert {model: after[model] - before[model] for model in MODELS} == {**dict.fromkeys(MODELS, 0), "mobilenet": 3}
    assert served.metric("embedder_model_memory_bytes", model="vgg16") > 50 * MEBIBYTE
    assert served.metric("embedder_model_memory_bytes", model="vgg16-max") < 50 * MEBIBYTE
    assert served.metric("embedder_model_info", model="tiny") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder_sha256": "0" * 64}, "encoder.keras was altered"),
        ({"format": 2}, "format is 2; this version requires 1"),
        ({"pixels": "0..255"}, "pixels is '0..255'; this version requires '0..1'"),
        ({"input_size": True}, "input_size is True; this version requires int"),
        (
            {"input_size": 64},
            r"but model.json has \(None, \d+\) and \(None, 64, 64, 3\): the files are not from the same",
        ),
        (None, "model.json: No such file"),
    ],
    ids=str,
)
def test_an_encoder_that_differs_from_its_description_is_not_served(
    change: dict[str, Any] | None, said: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorFlow runs in this process already, and takes no other number of threads.
    monkeypatch.setattr(model_loading, "use_threads", lambda _: None)
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "encoder.keras").write_bytes((encoder / "encoder.keras").read_bytes())
    if change is not None:
        facts = json.loads((encoder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps(facts | change))
    with pytest.raises(WeightsError, match=said):
        load_models(EmbedderSettings(models=f"tiny={folder}", max_batch_size=1))
