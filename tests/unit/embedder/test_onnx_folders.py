"""Folders of encoders: what is served from them, and what is refused by name. The graphs are small, and made here."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedder_service.adapters import onnx_folder
from embedder_service.adapters.onnx_folder import read_folder
from embedder_service.adapters.onnx_model import OnnxModel
from embedder_service.adapters.weights_files import WeightsError

SIDE, DIMENSION = 8, 5
CONFIG = {"size": {"height": SIDE, "width": SIDE}, "resample": 2, "do_normalize": False}
FLOAT = TensorProto.FLOAT


def encoder(
    folder: Path,
    *,
    shape: tuple[Any, ...] = ("n", 3, SIDE, SIDE),
    nodes: list[onnx.NodeProto] | None = None,
    outputs: Mapping[str, tuple[Any, ...]] | None = None,
    weights: NDArray[np.float32] | None = None,
    inputs: int = 1,
    **extra: Any,
) -> Path:
    """Write a folder whose graph multiplies the mean of each channel by a matrix, and save it with `extra` options."""
    folder.mkdir()
    matrix = np.arange(1, 3 * DIMENSION + 1, dtype=np.float32).reshape(3, DIMENSION) if weights is None else weights
    pixels = [helper.make_tensor_value_info(f"pixels{number or ''}", FLOAT, shape) for number in range(inputs)]
    made = nodes or [
        helper.make_node("GlobalAveragePool", ["pixels"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["vector"]),
    ]
    infos = [
        helper.make_tensor_value_info(name, FLOAT, dims)
        for name, dims in (outputs or {"vector": ("n", DIMENSION)}).items()
    ]
    graph = helper.make_graph(made, "test", pixels, infos, [numpy_helper.from_array(matrix, "matrix")])
    domains = {node.domain for node in made} | {""}
    imports = [helper.make_opsetid(domain, 17 if domain == "" else 1) for domain in sorted(domains)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), folder / "model.onnx", **extra)
    (folder / "preprocessor_config.json").write_text(json.dumps(CONFIG))
    return folder


def options(folder: Path, **found: Any) -> Path:
    (folder / "imagesearch.json").write_text(json.dumps(found))
    return folder


def served(folder: Path) -> OnnxModel:
    model = OnnxModel("own", read_folder(folder), 1, 4)
    model.probe()
    return model


PIXELS = np.random.default_rng(3).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
TOKENS = [
    # Two tokens: the pixels' means, and twice that.
    helper.make_node("GlobalAveragePool", ["pixels"], ["means"]),
    helper.make_node("Flatten", ["means"], ["flat"]),
    helper.make_node("MatMul", ["flat", "matrix"], ["first"]),
    helper.make_node("Add", ["first", "first"], ["second"]),
    helper.make_node("Constant", [], ["axis"], value=numpy_helper.from_array(np.array([1]))),
    helper.make_node("Unsqueeze", ["first", "axis"], ["one"]),
    helper.make_node("Unsqueeze", ["second", "axis"], ["two"]),
    helper.make_node("Concat", ["one", "two"], ["last_hidden_state"], axis=1),
]
TOKEN_SHAPE = {"last_hidden_state": ("n", 2, DIMENSION)}


def expected(factor: float = 1.0) -> NDArray[np.float32]:
    means = PIXELS.astype(np.float32).mean(axis=(1, 2)) / 255
    found: NDArray[np.float32] = (
        factor * means @ np.arange(1, 3 * DIMENSION + 1, dtype=np.float32).reshape(3, DIMENSION)
    )
    return found


def test_a_vector_has_unit_length_unless_the_folder_says_otherwise(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "own")
    vectors = served(folder).embed(PIXELS)
    assert vectors == pytest.approx(expected() / np.linalg.norm(expected(), axis=1, keepdims=True), rel=1e-5)
    options(folder, normalise=False, max_batch_size=2)
    model = served(folder)
    assert model.embed(PIXELS) == pytest.approx(expected(), rel=1e-5)
    assert (model.info.dimension, model.info.max_batch_size, model.info.normalisation) == (DIMENSION, 2, "none")


def test_tokens_are_pooled_to_one_vector(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "own", nodes=TOKENS, outputs=TOKEN_SHAPE)
    options(folder, normalise=False)
    assert served(folder).embed(PIXELS) == pytest.approx(expected(), rel=1e-5)
    options(folder, normalise=False, pooling="mean")
    assert served(folder).embed(PIXELS) == pytest.approx(expected(1.5), rel=1e-5)


def test_a_named_output_comes_before_the_usual_ones(tmp_path: Path) -> None:
    both = TOKEN_SHAPE | {"second": ("n", DIMENSION)}
    folder = encoder(tmp_path / "own", nodes=TOKENS, outputs=both)
    options(folder, normalise=False, output="second")
    assert served(folder).embed(PIXELS) == pytest.approx(expected(2), rel=1e-5)


def test_a_graph_with_one_batch_size_gets_full_batches(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "own", shape=(4, 3, SIDE, SIDE), outputs={"vector": (4, DIMENSION)})
    model = served(options(folder, normalise=False))
    assert model.info.max_batch_size == 4
    assert model.embed(PIXELS) == pytest.approx(expected(), rel=1e-5)


def test_external_data_is_a_part_of_the_encoder(tmp_path: Path) -> None:
    outside = encoder(tmp_path / "outside", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (outside / "weights.bin").exists()
    before = read_folder(outside).sha256
    data = outside / "weights.bin"
    data.write_bytes(bytes(reversed(data.read_bytes())))
    assert read_folder(outside).sha256 != before


def test_a_folder_that_changes_has_no_effect_on_what_was_read(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "own", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = served(options(folder, normalise=False))
    for path in folder.iterdir():
        path.write_bytes(b"\0" * path.stat().st_size)
    assert model.embed(PIXELS) == pytest.approx(expected(), rel=1e-5)


def external_at(folder: Path, location: str, **place: int) -> Path:
    """Let the matrix of a graph be in a file."""
    model = onnx.load(folder / "model.onnx")
    (weights,) = model.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **place}.items():
        weights.external_data.add(key=key, value=str(value))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def linked(folder: Path, name: str) -> Path:
    """Move a file out of a folder, and leave a link to it."""
    moved = folder.parent / f"moved-{name}"
    (folder / name).rename(moved)
    (folder / name).symlink_to(moved)
    return folder


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder


def without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def fifo(folder: Path) -> Path:
    os.mkfifo(without(encoder(folder), "model.onnx") / "model.onnx")
    return folder


def truncated(folder: Path) -> Path:
    return written(encoder(folder), "model.onnx", (folder / "model.onnx").read_bytes()[:-40])


def custom(domain: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Special", ["pixels"], ["vector"], domain=domain)]


def hidden_custom() -> list[onnx.NodeProto]:
    """Return an If whose branches have a custom operator."""
    branch = helper.make_graph(
        [helper.make_node("Special", ["pixels"], ["inner"], domain="mine")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", FLOAT, ("n", DIMENSION))],
    )
    condition = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    return [condition, helper.make_node("If", ["yes"], ["vector"], then_branch=branch, else_branch=branch)]


def function_with_data(folder: Path) -> Path:
    """Hide external data outside of the folder in a function."""
    made = encoder(folder, nodes=[helper.make_node("Own", ["pixels"], ["vector"], domain="local")])
    model = onnx.load(made / "model.onnx")
    constant = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(3, np.float32), "c"))
    constant.attribute[0].t.data_location = TensorProto.EXTERNAL
    constant.attribute[0].t.external_data.add(key="location", value="../c.bin")
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "Own", ["x"], ["y"], [constant], imports))
    return written(made, "model.onnx", model.SerializeToString())


def endless_memory(folder: Path) -> Path:
    """Let a graph ask for a tensor of eight terabytes."""
    nodes = [
        helper.make_node("Shape", ["pixels"], ["shape"]),
        helper.make_node("Mul", ["shape", "large"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["vector"], axes=[2, 3], keepdims=0),
        helper.make_node("Constant", [], ["large"], value=numpy_helper.from_array(np.array([1, 1, 10**5, 10**5]))),
    ]
    return encoder(folder, nodes=[nodes[4], *nodes[:4]], outputs={"vector": ("n", 3)})


def two_unknown(folder: Path) -> Path:
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["means"]),
        helper.make_node("Flatten", ["means"], ["one"]),
        helper.make_node("Neg", ["one"], ["two"]),
    ]
    return encoder(folder, nodes=nodes, outputs={"one": ("n", 3), "two": ("n", 3)})


def map_only(folder: Path) -> Path:
    nodes = [helper.make_node("Relu", ["pixels"], ["map"])]
    return encoder(folder, nodes=nodes, outputs={"map": ("n", 3, SIDE, SIDE)})


FAULTS: Mapping[str, Callable[[Path], Path]] = {
    "is not a folder": lambda folder: folder,
    "has no preprocessor_config.json": lambda folder: without(encoder(folder), "preprocessor_config.json"),
    "has no graph": lambda folder: without(encoder(folder), "model.onnx"),
    "preprocessor_config.json is not JSON": lambda folder: written(encoder(folder), "preprocessor_config.json", b"{"),
    "is not JSON: ": lambda folder: written(encoder(folder), "preprocessor_config.json", b"[" * 100_000),
    "must contain an object": lambda folder: written(encoder(folder), "preprocessor_config.json", b"[]"),
    "the maximum is 1048576": lambda folder: written(encoder(folder), "preprocessor_config.json", b" " * 2**21),
    "do_flip: unknown": lambda folder: written(encoder(folder), "preprocessor_config.json", b'{"do_flip": true}'),
    "imagesearch.json: layout is unknown; use output": lambda folder: options(encoder(folder), layout="x"),
    "normalise is 'no'; it must be true or false": lambda folder: options(encoder(folder), normalise="no"),
    "max_batch_size is True; it must be a whole number": lambda folder: options(encoder(folder), max_batch_size=True),
    "max_batch_size is -1; it must be from 1 to 32": lambda folder: options(encoder(folder), max_batch_size=-1),
    "max_batch_size is 33; it must be from 1 to 32": lambda folder: options(encoder(folder), max_batch_size=33),
    "only batches of 64 images; the maximum is 32": lambda folder: encoder(
        folder, shape=(64, 3, SIDE, SIDE), outputs={"vector": (64, DIMENSION)}
    ),
    "pooling is 'max'; use none, cls, mean": lambda folder: options(encoder(folder), pooling="max"),
    "the graph has no output other; it has vector": lambda folder: options(encoder(folder), output="other"),
    "is damaged, or is not an ONNX graph": truncated,
    "is not a valid ONNX graph": lambda folder: written(encoder(folder), "model.onnx", b""),
    "uses custom operators, which would need code: mine.Special": lambda folder: encoder(folder, nodes=custom("mine")),
    "would need code: mine.Special;": lambda folder: encoder(folder, nodes=hidden_custom()),
    "model.onnx leads out of": lambda folder: linked(encoder(folder), "model.onnx"),
    "preprocessor_config.json leads out of": lambda folder: linked(encoder(folder), "preprocessor_config.json"),
    "model.onnx does not exist, or is not a file": fifo,
    "../weights.bin leads out of": lambda folder: external_at(encoder(folder), "../weights.bin"),
    "/etc/hostname leads out of": lambda folder: external_at(encoder(folder), "/etc/hostname"),
    "../c.bin leads out of": function_with_data,
    "weights.bin does not exist": lambda folder: external_at(encoder(folder), "weights.bin"),
    "the file is truncated": lambda folder: external_at(written(encoder(folder), "w", b"1234"), "w", length=60),
    "needs bytes -4 to": lambda folder: external_at(
        written(encoder(folder), "w", b"1" * 99), "w", offset=-4, length=60
    ),
    "which needs 60": lambda folder: external_at(written(encoder(folder), "w", b"1" * 10), "w"),
    "the graph has the inputs pixels, pixels1": lambda folder: encoder(folder, inputs=2),
    "it must be a batch of images, with four dimensions": lambda folder: encoder(folder, shape=("n", 3, SIDE)),
    "one of its dimensions must be 3 channels": lambda folder: encoder(
        folder, shape=("n", 4, SIDE, SIDE), weights=np.ones((4, DIMENSION), np.float32)
    ),
    "the graph accepts 9 x 8 pixels": lambda folder: encoder(folder, shape=("n", 3, 9, SIDE)),
    "the encoder fails on a photograph": endless_memory,
    "which output has the vectors? Name one of one, two": two_unknown,
    "set output and pooling in imagesearch.json": map_only,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_be_served_is_refused(fault: str, tmp_path: Path) -> None:
    folder = FAULTS[fault](tmp_path / "own")
    with pytest.raises(WeightsError) as refused:
        served(folder)
    assert fault in str(refused.value)
    assert str(folder) in str(refused.value)


def test_a_graph_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "own")
    os.truncate(folder / "model.onnx", 10 * 10**9)
    with pytest.raises(WeightsError, match=r"has, with its external data, 10\.0 GB; the maximum is 2\.1 GB"):
        read_folder(folder)
    other = external_at(encoder(tmp_path / "other"), "weights.bin")
    (other / "weights.bin").touch()
    os.truncate(other / "weights.bin", onnx_folder.MAX_BYTES)
    with pytest.raises(WeightsError, match=r"has, with its external data, 2\.1 GB"):
        read_folder(other)
