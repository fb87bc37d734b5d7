"""Encoders of ONNX folders agree with the TensorFlow models whose weights they have, and are served beside them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from embedder_service.adapters.onnx_export import export
from embedder_service.adapters.onnx_folder import read_folder
from embedder_service.adapters.onnx_model import OnnxModel
from embedder_service.adapters.weights_files import WeightsError
from embedder_service.core.model_names import ModelName, parse_model_name
from embedder_service.core.types import Pixels
from embedder_service.inspect import report
from grpc_kit.channel import open_blocking_channel
from tests.integration.embedder.helpers import SAME, Embedder, StartEmbedder, cosines

MODELS = ("vgg16", "mobilenet", "vgg16-gem", "mobilenet-max")
SIDE, COUNT = 224, 10


def model_name(text: str) -> ModelName:
    name = parse_model_name(text)
    assert isinstance(name, ModelName)
    return name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Return the folder of each model, as the command writes it."""
    made = {text: tmp_path_factory.mktemp("onnx") / text for text in MODELS}
    for text, folder in made.items():
        command = [sys.executable, "-m", "embedder_service.export_onnx", text, "-o", str(folder)]
        assert (
            f"EMBEDDER_MODELS=NAME={folder}"
            in subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
    return made


@pytest.fixture(scope="module")
def served(folders: Mapping[str, Path], start_embedder: StartEmbedder) -> Iterator[Embedder]:
    models = ",".join([*MODELS, f"own={folders['mobilenet']}"])
    with start_embedder(models=models, precision="float32") as service:
        yield service


@pytest.fixture(scope="module")
def pixels(photographs: Mapping[str, bytes]) -> Pixels:
    pictures = [Image.open(BytesIO(content)).convert("RGB") for content in photographs.values()][:COUNT]
    return np.stack([np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for picture in pictures])


def served_vectors(served: Embedder, model: str, pixels: Pixels) -> NDArray[np.float32]:
    """Return the vectors of the service. The images have the size of its input, so it does not resize them."""
    found = []
    with open_blocking_channel(served.address, 20 * 1024 * 1024) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        for each in pixels:
            file = BytesIO()
            Image.fromarray(each).save(file, "PNG")
            image = encoded_image_pb2.EncodedImage(content=file.getvalue())
            response = stub.Embed(embedder_pb2.EmbedRequest(model=model, image=image), timeout=30)
            found.append(response.embedding.values)
    return np.array(found, np.float32)


def loaded(folder: Path, max_batch_size: int = 3) -> OnnxModel:
    model = OnnxModel("own", read_folder(folder), 2, max_batch_size)
    model.probe()
    return model


def embedded(model: OnnxModel, pixels: Pixels) -> NDArray[np.float32]:
    """Return the vectors of images in batches of 3, of which the last one is smaller."""
    return np.concatenate([model.embed(pixels[begin : begin + 3]) for begin in range(0, len(pixels), 3)])


@pytest.mark.parametrize("text", MODELS)
def test_an_exported_model_agrees_with_its_network(
    text: str, folders: Mapping[str, Path], served: Embedder, pixels: Pixels
) -> None:
    model = loaded(folders[text])
    expected = served_vectors(served, text, pixels)
    assert model.info.dimension == expected.shape[1]
    assert cosines(embedded(model, pixels), expected).min() >= SAME


def changed(folder: Path, target: Path, change: Any) -> Path:
    """Copy a folder with a changed graph."""
    shutil.copytree(folder, target)
    model = onnx.load(target / "model.onnx")
    change(model, target)
    return target


def channels_last(model: onnx.ModelProto, folder: Path) -> None:
    graph = model.graph
    graph.input[0].CopyFrom(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", SIDE, SIDE, 3]))
    graph.node.insert(0, helper.make_node("Transpose", ["pixel_values"], ["first"], perm=[0, 3, 1, 2]))
    graph.node[1].input[0] = "first"
    onnx.save(model, folder / "model.onnx")


def batch_of(size: int) -> Any:
    def change(model: onnx.ModelProto, folder: Path) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = size
        onnx.save(model, folder / "model.onnx")

    return change


def half(model: onnx.ModelProto, folder: Path) -> None:
    """Make all weights, the input and the outputs float16."""
    for weights in model.graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype == np.float32:
            weights.CopyFrom(numpy_helper.from_array(values.astype(np.float16), weights.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, folder / "model.onnx")


def external(model: onnx.ModelProto, folder: Path) -> None:
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)


def map_alone(model: onnx.ModelProto, folder: Path) -> None:
    """Take the feature map, whose mean over the cells is the vector."""
    onnx.save(model, folder / "model.onnx")
    (folder / "imagesearch.json").write_text(json.dumps({"output": "features", "pooling": "mean"}))


CHANGES = {
    "channels last": (channels_last, SAME),
    "one image at a time": (batch_of(1), SAME),
    "four images at a time": (batch_of(4), SAME),
    "float16": (half, 0.999),
    "external data": (external, SAME),
    "feature map": (map_alone, SAME),
}


@pytest.mark.parametrize("change", CHANGES)
def test_graphs_of_every_form_have_the_same_vectors(
    change: str, folders: Mapping[str, Path], pixels: Pixels, tmp_path: Path
) -> None:
    how, least = CHANGES[change]
    whole = loaded(folders["mobilenet"])
    model = loaded(changed(folders["mobilenet"], tmp_path / "changed", how))
    size = model.info.max_batch_size
    assert size == (1 if change == "one image at a time" else 3)
    found = np.concatenate([model.embed(pixels[begin : begin + size]) for begin in range(0, len(pixels), size)])
    assert cosines(found, embedded(whole, pixels)).min() >= least
    assert model.info.fingerprint != whole.info.fingerprint


def test_the_fingerprint_depends_on_the_graph_and_on_every_key(folders: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(folders["mobilenet"], folder)
    first = loaded(folders["mobilenet"]).info
    renamed = OnnxModel("another_name", read_folder(folder), 1, 1)
    renamed.probe()
    assert renamed.info.fingerprint == first.fingerprint
    config = json.loads((folder / "preprocessor_config.json").read_text())
    for key, value in {"resample": 3, "do_rescale": True, "do_normalize": True}.items():
        more = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if key == "do_normalize" else {}
        (folder / "preprocessor_config.json").write_text(json.dumps(config | {key: value} | more))
        assert loaded(folder).info.fingerprint != first.fingerprint
    (folder / "preprocessor_config.json").write_text(json.dumps(config | {"image_processor_type": "Other"}))
    assert loaded(folder).info.fingerprint == first.fingerprint
    (folder / "imagesearch.json").write_text(json.dumps({"output": "pooler_output", "normalise": False}))
    assert loaded(folder).info.fingerprint != first.fingerprint


def test_the_service_serves_a_folder_beside_networks(served: Embedder, pixels: Pixels) -> None:
    found = served_vectors(served, "own", pixels)
    assert cosines(found, served_vectors(served, "mobilenet", pixels)).min() >= SAME
    with open_blocking_channel(served.address, 20 * 1024 * 1024) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        own = stub.GetModel(embedder_pb2.GetModelRequest(name="own")).model
        assert (own.input, own.input_size, own.dimension) == ("config", SIDE, 1024)
        assert (own.normalisation, own.region_fingerprint) == ("l2", "")
        options = embedder_pb2.RegionOptions(max_regions=1)
        with pytest.raises(grpc.RpcError) as refused:
            stub.EmbedRegions(embedder_pb2.EmbedRegionsRequest(model="own", options=options), timeout=30)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "model own has head" in str(refused.value.details())


def test_a_folder_that_computes_no_vectors_is_not_served(folders: Mapping[str, Path], tmp_path: Path) -> None:
    def break_it(model: onnx.ModelProto, folder: Path) -> None:
        weights = model.graph.initializer[3]
        values = np.full_like(numpy_helper.to_array(weights), np.nan)
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))
        onnx.save(model, folder / "model.onnx")

    folder = changed(folders["mobilenet"], tmp_path / "broken", break_it)
    environment = os.environ | {"EMBEDDER_MODELS": f"own={folder}", "EMBEDDER_LISTEN_ADDRESS": "127.0.0.1:0"}
    command = [sys.executable, "-m", "embedder_service"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"model own ({folder}) computes an invalid vector of a photograph" in ended.stderr


def test_inspect_shows_what_would_be_served(folders: Mapping[str, Path]) -> None:
    shown = dict(report(folders["mobilenet"]))
    assert shown["input"] == "pixel_values, float32, [N, 3, H, W], any number of images"
    assert shown["vector"] == "output pooler_output, pooling none, 1024 components, unit length"
    assert shown["fingerprint"] == loaded(folders["mobilenet"]).info.fingerprint


def test_only_known_networks_can_be_exported(tmp_path: Path) -> None:
    for text in ("resnet50", "vgg16-rmac", "vgg16-native"):
        with pytest.raises(WeightsError, match="cannot be exported"):
            export(model_name(text), tmp_path / "none", tmp_path / "folder")
