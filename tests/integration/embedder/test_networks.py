"""Every network of the registry, served, against Keras' own pipeline with the same file of weights.

The published weights of most cannot be had by those who reach a package index only. So each of these gets a file of
weights made with a fixed seed: what is tested is that the file is read, the pixels prepared and the layers run as Keras
does. MobileNet's and VGG16's are the published ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from numpy.typing import NDArray
from PIL import Image

from embedder_service.adapters import keras_backbones, weights_files
from embedder_service.adapters.weights_files import MOBILENET, SPECS, VGG16
from embedder_service.adapters.weights_sources import MOBILENET_ARCHIVE, download_member
from embedder_service.core.networks import NETWORKS
from grpc_kit.channel import open_blocking_channel
from imagesearch_client import EmbedderClient, Region
from tests.integration.embedder.helpers import Embedder, StartEmbedder, cosines
from tests.seeded_weights import Seeded, cached, preprocess

DIMENSIONS = {
    "vgg19": 512,
    "inception_v3": 2048,
    "resnet50": 2048,
    "densenet121": 1024,
    "mobilenet_v2": 1792,
    "efficientnet_v2_b0": 1280,
}
# These are small, and served in every run.
QUICK = ("mobilenet_v2", "efficientnet_v2_b0")
OTHERS = tuple(name for name in DIMENSIONS if name not in QUICK)
MEBIBYTE = 1024 * 1024
# Enough to tell networks apart: each costs seconds of a test.
IMAGES = 4

# Nine networks are built, and loaded by a service.
pytestmark = pytest.mark.timeout(400)


def native(name: str) -> str:
    """Return the name of a network's model that can embed regions."""
    return f"{name}-max-native256"


class Files(Mapping[str, Seeded]):
    """Files of seeded weights by name; each is made when it is first asked for."""

    def __init__(self, images: list[bytes]) -> None:
        self._images = images

    def __getitem__(self, name: str) -> Seeded:
        return cached(name, lambda side: pixels(self._images, side))

    def __iter__(self) -> Iterator[str]:
        return iter((*DIMENSIONS, "vgg16_top"))

    def __len__(self) -> int:
        return len(DIMENSIONS) + 1


@pytest.fixture(scope="module")
def files(images: list[bytes]) -> Files:
    return Files(images)


@contextmanager
def serving(
    start_embedder: StartEmbedder, files: Files, models: Sequence[str], seeded: Sequence[str]
) -> Iterator[Embedder]:
    with start_embedder(
        models=",".join(models),
        weights=",".join(f"{name}={files[name].path}" for name in seeded),
        weights_sha256=",".join(f"{name}={files[name].sha256}" for name in seeded),
        precision="float32",
        max_batch_size="1",
    ) as service:
        yield service


@pytest.fixture(scope="module")
def served(files: Files, start_embedder: StartEmbedder) -> Iterator[Embedder]:
    """The networks of every run."""
    with serving(
        start_embedder, files, [*QUICK, "mobilenet_v2-raw", "mobilenet", *map(native, QUICK)], QUICK
    ) as service:
        yield service


@pytest.fixture(scope="module")
def others_served(files: Files, start_embedder: StartEmbedder) -> Iterator[Embedder]:
    """The networks of the soak tier."""
    models = [*OTHERS, "vgg16-fc1", "resnet50-raw", *map(native, OTHERS)]
    with serving(start_embedder, files, models, [*OTHERS, "vgg16_top"]) as service:
        yield service


@pytest.fixture(scope="module")
def images(photographs: Mapping[str, bytes]) -> list[bytes]:
    """PNG files, small enough that no decoder takes a shorter way."""
    files = []
    for content in list(photographs.values())[:IMAGES]:
        file = BytesIO()
        Image.open(BytesIO(content)).convert("RGB").resize((400, 300)).save(file, "PNG")
        files.append(file.getvalue())
    return files


def embedded(service: Embedder, model: str, images: list[bytes]) -> NDArray[np.float32]:
    with open_blocking_channel(service.address, 20 * MEBIBYTE) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        answers = [
            stub.Embed(
                embedder_pb2.EmbedRequest(model=model, image=encoded_image_pb2.EncodedImage(content=content)),
                timeout=60,
            )
            for content in images
        ]
    return np.array([list(answer.embedding.values) for answer in answers], np.float32)


def pixels(images: list[bytes], side: int) -> NDArray[np.float32]:
    return np.stack(
        [
            np.asarray(Image.open(BytesIO(content)).resize((side, side), Image.Resampling.BILINEAR), np.float32)
            for content in images
        ]
    )


def pooled_by_keras(name: str, path: Path, images: list[bytes]) -> NDArray[np.float32]:
    network = NETWORKS[name]
    side = network.input_size
    builder = getattr(keras.applications, network.builder)
    made = builder(include_top=False, weights=None, pooling="avg", input_shape=(side, side, 3), **network.arguments)
    made.load_weights(path)
    values: NDArray[np.float32] = made.predict(preprocess(name, pixels(images, side)), verbose=0)
    return values


@pytest.mark.parametrize(
    ("name", "service"),
    [
        *((name, "served") for name in QUICK),
        *(pytest.param(name, "others_served", marks=pytest.mark.soak) for name in OTHERS),
    ],
)
def test_vectors_equal_those_of_keras_pipeline(
    name: str, service: str, files: Files, images: list[bytes], request: pytest.FixtureRequest
) -> None:
    found = embedded(request.getfixturevalue(service), name, images)
    assert found.shape == (IMAGES, DIMENSIONS[name])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    expected = pooled_by_keras(name, files[name].path, images)
    assert cosines(found, expected).min() > 0.99999
    # The test could not fail where all images look the same to a network.
    assert cosines(expected, np.roll(expected, 1, axis=0)).min() < 0.9999


@pytest.mark.parametrize(
    ("name", "service"),
    [
        *((name, "served") for name in QUICK),
        *(pytest.param(name, "others_served", marks=pytest.mark.soak) for name in OTHERS),
    ],
)
def test_every_network_embeds_regions(
    name: str, service: str, images: list[bytes], request: pytest.FixtureRequest
) -> None:
    address, model = request.getfixturevalue(service).address, native(name)
    whole, left = Region(0, 0, 1, 1), Region(0, 0, 0.5, 1)
    with EmbedderClient(address, timeout=60) as client:
        regions = [client.embed_regions(image, model=model, max_regions=8, boxes=[whole, left]) for image in images]
        plain = np.array([client.embed(image, model=model).values for image in images])
        fingerprint = client.get_model(model).region_fingerprint
    assert fingerprint
    for found, embedding in zip(regions, plain, strict=True):
        assert found.embedding.fingerprint == fingerprint
        np.testing.assert_array_equal(found.embedding.values, embedding)
        np.testing.assert_array_equal(found.boxes[0].embedding.values, embedding)
        vectors = np.array([each.embedding.values for each in (*found.proposals, *found.boxes)])
        assert vectors.shape == (len(found.proposals) + 2, DIMENSIONS[name])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        assert len({each.box for each in found.proposals}) > 1
        # The half has other cells than the whole.
        assert cosines(vectors[-1:], embedding[np.newaxis])[0] < 0.99999


def test_raw_vectors_keep_their_length(files: Files, served: Embedder, images: list[bytes]) -> None:
    expected = pooled_by_keras("mobilenet_v2", files["mobilenet_v2"].path, images)
    np.testing.assert_allclose(embedded(served, "mobilenet_v2-raw", images), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.soak
def test_fc1_is_the_first_dense_layer_of_vgg16_with_its_classifier(
    files: Files, others_served: Embedder, images: list[bytes]
) -> None:
    whole = keras.applications.VGG16(weights=None, classes=10)
    whole.load_weights(files["vgg16_top"].path)
    fc1 = keras.Model(whole.input, whole.get_layer("fc1").output)
    expected = fc1.predict(keras.applications.vgg16.preprocess_input(pixels(images, 224)), verbose=0)
    found = embedded(others_served, "vgg16-fc1", images)
    assert found.shape == (IMAGES, 4096)
    assert cosines(found, expected).min() > 0.99999


def test_mobilenet_computes_the_values_of_its_original_graph(served: Embedder, images: list[bytes]) -> None:
    graph = tf.compat.v1.GraphDef.FromString(download_member(MOBILENET_ARCHIVE))
    pool = "MobilenetV1/Logits/AvgPool_1a/AvgPool:0"
    run = tf.compat.v1.wrap_function(
        lambda values: tf.graph_util.import_graph_def(graph, input_map={"input:0": values}, return_elements=[pool])[0],
        [tf.TensorSpec((1, 224, 224, 3), tf.float32)],
    )
    scaled = pixels(images, 224) / 127.5 - 1
    expected = np.stack([run(tf.constant(image[np.newaxis])).numpy().reshape(-1) for image in scaled])
    assert cosines(embedded(served, "mobilenet", images), expected).min() > 0.99999


def models_of(service: Embedder) -> dict[str, embedder_pb2.Model]:
    with open_blocking_channel(service.address, MEBIBYTE) as channel:
        models = embedder_pb2_grpc.EmbedderServiceStub(channel).ListModels(embedder_pb2.ListModelsRequest()).models
    assert sum(model.default for model in models) == 1
    assert len({model.fingerprint for model in models}) == len(models)
    return {model.name: model for model in models}


def test_list_models_describes_each(served: Embedder) -> None:
    models = models_of(served)
    assert {name: models[name].dimension for name in QUICK} == {name: DIMENSIONS[name] for name in QUICK}
    assert models["mobilenet"].weights_sha256 == MOBILENET.sha256
    assert models["mobilenet_v2"].default
    assert models["mobilenet"].preprocessing.split("-")[3] == "tf/3"
    assert models["mobilenet_v2"].normalisation == "l2"
    assert models["mobilenet_v2-raw"].normalisation == "none"


@pytest.mark.soak
def test_list_models_describes_the_others(others_served: Embedder) -> None:
    models = models_of(others_served)
    assert {name: models[name].dimension for name in OTHERS} == {name: DIMENSIONS[name] for name in OTHERS}
    assert models["vgg19"].default
    assert models["inception_v3"].input_size == 299
    assert models["vgg16-fc1"].weights_sha256 != VGG16.sha256
    scales = {models[name].preprocessing.split("-")[3] for name in ("resnet50", "densenet121")}
    assert scales == {"caffe/3", "torch/3"}
    # They share their network: only the first has it in its account.
    assert models["resnet50"].execution.memory_bytes > 50 * MEBIBYTE > models["resnet50-raw"].execution.memory_bytes


@pytest.mark.parametrize("side", [96, 160, 299, 320])
def test_the_side_of_a_map_equals_keras_if_layers_do_not_pad(side: int) -> None:
    network = keras_backbones.build("inception_v3", "float32")
    assert network.compute_output_shape((None, side, side, 3))[1] == NETWORKS["inception_v3"].map_side(side)


@pytest.mark.parametrize("network", ["mobilenet_v2", pytest.param("resnet50", marks=pytest.mark.soak)])
def test_weights_without_a_known_digest_are_not_served(network: str, files: Files) -> None:
    with pytest.raises(weights_files.WeightsError) as refused:
        weights_files.read_verified(files[network].path, SPECS[network])
    assert f"EMBEDDER_WEIGHTS_SHA256={network}={files[network].sha256}" in str(refused.value)


def test_a_file_of_another_network_is_refused_by_name(files: Files) -> None:
    with pytest.raises(weights_files.WeightsError, match="does not fit densenet121"):
        keras_backbones.read(files["mobilenet_v2"].path, SPECS["densenet121"])


@pytest.mark.soak
def test_names_of_tensors_do_not_depend_on_what_was_built_before(files: Files) -> None:
    # Keras numbers this network's layers on from those that the process has built already.
    read = keras_backbones.read(files["inception_v3"].path, SPECS["inception_v3"])
    assert weights_files.tensors_sha256(read) == files["inception_v3"].sha256


def test_an_unknown_model_is_refused_with_the_served_models(served: Embedder, images: list[bytes]) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        embedded(served, "resnet51", images[:1])
    assert "this server has efficientnet_v2_b0, efficientnet_v2_b0-max-native256, mobilenet, mobilenet_v2" in str(
        refused.value
    )
