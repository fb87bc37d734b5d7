"""Files of vectors from elsewhere, and damaged files."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imagesearch.types.v1 import embedding_pb2

from imagesearch_client.types import Embedding, Region
from imagesearch_ingest.sources.items import Fault, Item, SourceError
from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource, VectorOptions
from search_service.core import vector_checks

HERE = VectorOptions(fingerprint="vgg16")
RANDOM = np.random.default_rng(5)
VECTORS = RANDOM.normal(size=(6, 4)).astype(np.float32)
IDS = [f"i{row}" for row in range(6)]


def items(path: Path, options: VectorOptions = HERE) -> list[Item]:
    found = list(VectorFileSource(path, options))
    assert not [each for each in found if isinstance(each, Fault)], found
    return [each for each in found if isinstance(each, Item)]


def faults(path: Path, options: VectorOptions = HERE) -> dict[str, str]:
    found = [each for each in VectorFileSource(path, options) if isinstance(each, Fault)]
    assert all((each.reason, each.may_hide_items) == ("ROW_INVALID", True) for each in found)
    return {each.where: each.message for each in found}


def values(item: Item) -> list[float]:
    assert isinstance(item.content, Embedding)
    return list(item.content.values)


def parquet(path: Path, /, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def hdf5(path: Path, /, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file.create_dataset(name.replace("__", "/"), data=data)
    return path


def npz(path: Path, /, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def lists(vectors: Any, kind: Any = None) -> Any:
    return pa.array([None if each is None else list(each) for each in vectors], kind or pa.list_(pa.float32()))


def test_hdf5_files_of_tutorials_are_read(tmp_path: Path) -> None:
    vectors = RANDOM.random((3000, 512), dtype=np.float32)
    names = [f"{row}.jpg".encode() for row in range(3000)]
    path = hdf5(tmp_path / "features.h5", dataset_1=vectors, dataset_2=np.array(names))
    source = VectorFileSource(path, HERE)
    assert (source.dimension, source.fingerprint, source.count()) == (512, "vgg16", 3000)
    assert source.name == str(path)
    found = items(path)
    assert [item.id for item in found] == [name.decode() for name in names]
    assert values(found[2999]) == vectors[2999].tolist()
    assert (found[0].uri, found[0].attributes, found[0].size, found[0].region) == ("", None, None, None)
    assert found[0].stamp == hashlib.blake2b(vectors[0].tobytes(), digest_size=16).hexdigest()


def test_a_vector_becomes_a_message(tmp_path: Path) -> None:
    content = items(npz(tmp_path / "v.npz", vectors=VECTORS, ids=np.array(IDS)))[1].content
    assert isinstance(content, Embedding)
    message = embedding_pb2.Embedding(values=content.values, fingerprint=content.fingerprint)
    assert list(message.values) == VECTORS[1].tolist()


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4", ">f8"])
def test_floats_of_any_type_are_read(tmp_path: Path, kind: str) -> None:
    vectors = VECTORS.astype(kind)
    expected = vectors.astype("f4").tolist()
    paths = [
        npz(tmp_path / "v.npz", feats=vectors, ids=np.array(IDS)),
        hdf5(tmp_path / "v.h5", feats=vectors, ids=IDS),
    ]
    if not kind.startswith(">"):
        column = pa.array([list(vector) for vector in vectors], pa.list_(pa.from_numpy_dtype(np.dtype(kind))))
        paths.append(parquet(tmp_path / "v.parquet", feats=column, ids=IDS))
    for path in paths:
        assert [values(item) for item in items(path)] == expected


@pytest.mark.parametrize("make", [npz, hdf5])
def test_ids_are_texts_bytes_or_integers(tmp_path: Path, make: Callable[..., Path]) -> None:
    suffix = {npz: "npz", hdf5: "h5"}[make]
    for number, (ids, expected) in enumerate(
        [
            (np.array(["ü".encode(), b"b"]), ["ü", "b"]),
            (np.array([7, -1]), ["7", "-1"]),
            (np.array([2**64 - 1, 0], np.uint64), ["18446744073709551615", "0"]),
        ]
    ):
        path = make(tmp_path / f"{number}.{suffix}", features=VECTORS[:2], ids=ids)
        assert [item.id for item in items(path)] == expected
    path = make(tmp_path / f"bad.{suffix}", features=VECTORS[:3], ids=np.array([b"a", b"\xff\xfe", b""]))
    assert faults(path) == {
        f"bad.{suffix}, row 2": "id is b'\\xff\\xfe'; it must be UTF-8",
        f"bad.{suffix}, row 3": "there is no id",
    }


def test_parquet_columns_become_attributes(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "v.parquet",
        embedding=lists(VECTORS),
        id=pa.array([1, 2, 3, 4, 5, 6]),
        path=["a", None, "c", "d", "e", "f"],
        price=[1.5, None, float("nan"), 2.0, 3.0, 4.0],
        kind=pa.array(["shoe"] * 6).dictionary_encode(),
        tags=[["a"], [], None, ["b", "c"], ["d"], ["e"]],
        flag=[True, False, None, True, True, True],
        nothing=pa.nulls(6),
        region=["EU"] * 6,
        **{"attributes.count": pa.array([1] * 6, pa.int8()), "odd name": ["x"] * 6},
    )
    with pytest.raises(SourceError, match="'odd name' cannot be an attribute's name"):
        VectorFileSource(path, HERE)
    options = VectorOptions(fingerprint="f", columns={"odd name": "odd", "flag": "", "count": "number"})
    found = items(path, options)
    rest = {"kind": "shoe", "region": "EU", "odd": "x", "number": 1}
    assert [item.attributes for item in found[:3]] == [
        {"price": 1.5, "tags": ["a"], **rest},
        {"tags": [], **rest},
        rest,
    ]
    assert [item.uri for item in found[:3]] == ["a", "", "c"]
    assert found[0].id == "1"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, 2], pa.duration("us")), "'when' is duration"),
        (pa.array([b"a", b"b"]), "'when' is binary"),
        (lists([[1.0], [2.0]]), "'when' is list"),
        (pa.array([{"a": 1}, {"a": 2}]), "'when' is struct"),
    ],
)
def test_a_column_of_an_unsupported_type_raises_an_error(tmp_path: Path, column: Any, message: str) -> None:
    path = parquet(tmp_path / "v.parquet", vector=lists(VECTORS[:2]), id=["a", "b"], when=column)
    with pytest.raises(SourceError, match=message):
        VectorFileSource(path, HERE)
    assert len(items(path, VectorOptions(fingerprint="f", columns={"when": ""}))) == 2


def test_options_name_the_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path / "v.parquet", v=lists(VECTORS), id=IDS, sku=IDS[::-1], url=IDS)
    options = VectorOptions("f", vector="v", id="sku", uri="url")
    first = items(path, options)[0]
    assert (first.id, first.uri, first.attributes) == ("i5", "i0", {"id": "i0"})
    for wrong, message in [
        (VectorOptions("f"), "no column has a usual name for vectors"),
        (VectorOptions("f", vector="w"), "there is no column 'w'; the columns are 'id', 'sku', 'url', 'v'"),
        (VectorOptions("f", vector="v", columns={"x": "y"}), "no attribute 'x'"),
        (VectorOptions("f", vector="v", columns={"url": "sku"}), "two columns would become the attribute sku"),
        (VectorOptions(vector="v"), "does not contain the fingerprint of its model"),
    ]:
        with pytest.raises(SourceError, match=message):
            VectorFileSource(path, wrong)


def test_hdf5_attributes_are_read(tmp_path: Path) -> None:
    path = hdf5(
        tmp_path / "v.h5",
        features=VECTORS[:2],
        ids=IDS[:2],
        attributes__price=[1.5, np.nan],
        attributes__kind=["a", "b"],
        attributes__flag=[True, False],
        attributes__n=np.array([1, 2], "u1"),
        regions=np.array([[np.nan] * 4, [0, 0, 0.5, 1]]),
    )
    found = items(path)
    assert [item.attributes for item in found] == [
        {"price": 1.5, "kind": "a", "flag": True, "n": 1},
        {"kind": "b", "flag": False, "n": 2},
    ]
    assert [item.region for item in found] == [None, Region(0, 0, 0.5, 1)]
    options = VectorOptions("f", columns={"kind": "sort", "flag": "", "price": "", "n": ""})
    assert [item.attributes for item in items(path, options)] == [{"sort": "a"}, {"sort": "b"}]


def test_invalid_json_attributes_reject_only_their_rows(tmp_path: Path) -> None:
    texts = ['{"a":1}', "{", "[1]", '{"a":null}', '{"a":{"b":1}}', f'{{"a":{2**63}}}']
    path = npz(tmp_path / "v.npz", features=VECTORS, ids=np.array(IDS), attributes=np.array(texts))
    messages = faults(path)
    assert [where[-1] for where in messages] == ["2", "3", "5", "6"]
    assert "not JSON" in messages["v.npz, row 2"]
    assert "attribute 'a' is {'b': 1}" in messages["v.npz, row 5"]


def odd_vectors() -> np.ndarray[Any, np.dtype[np.float64]]:
    vectors = VECTORS.astype(np.float64)
    vectors[1] = 0
    vectors[2, 3] = np.nan
    vectors[3, 0] = np.inf
    # Beyond the range of float32.
    vectors[4, 0] = 1e300
    vectors[5] = 1e-300
    return vectors


def test_zero_and_infinite_vectors_are_faults(tmp_path: Path) -> None:
    vectors = odd_vectors()
    for path in (
        npz(tmp_path / "v.npz", features=vectors, ids=np.array(IDS)),
        hdf5(tmp_path / "v.h5", features=vectors, ids=IDS),
        parquet(tmp_path / "v.parquet", features=lists(vectors, pa.list_(pa.float64())), ids=IDS),
    ):
        messages = faults(path)
        assert [messages[f"{path.name}, row {row}"].split("is ")[-1] for row in (2, 6)] == ["all zero"] * 2
        assert [
            row for row in range(1, 7) if messages.get(f"{path.name}, row {row}", "").endswith("that are not finite")
        ] == [3, 4, 5]
        assert len(messages) == 5


def test_vectors_that_the_service_cannot_compare_are_faults(tmp_path: Path) -> None:
    shortest = vector_checks.shortest_length(2)
    lengths = [
        shortest * 0.99,
        shortest * 1.01,
        vector_checks.LONGEST * 0.99,
        vector_checks.LONGEST * 1.01,
        1e-30,
        1e38,
    ]
    path = npz(tmp_path / "v.npz", features=np.array([[length, 0] for length in lengths], np.float32), ids=IDS[:6])
    found = list(VectorFileSource(path, HERE))
    reasons = [each.reason if isinstance(each, Fault) else "" for each in found]
    short, long = ["VECTOR_LENGTH_INVALID"], ["VECTOR_LENGTH_INVALID"]
    assert reasons == [*short, "", "", *long, *short, *long]


@pytest.mark.parametrize("fixed", [True, False])
def test_missing_and_incomplete_lists_are_faults(tmp_path: Path, fixed: bool) -> None:
    rows: list[Any] = [None, [1.0, 2.0], None, [3.0, None], [0.5, 0.25]]
    if not fixed:
        rows += [[1.0], [], [1.0, 2.0, 3.0]]
    kind = pa.list_(pa.float32(), 2) if fixed else pa.large_list(pa.float32())
    path = parquet(tmp_path / "v.parquet", vector=lists(rows, kind), id=[str(row) for row in range(len(rows))])
    source = VectorFileSource(path, HERE)
    assert source.dimension == 2
    messages = {int(where.rpartition(" ")[2]): message for where, message in faults(path).items()}
    assert [item.id for item in source if isinstance(item, Item)] == ["1", "4"]
    assert {row: message.split("; ")[0] for row, message in messages.items()} == {
        1: "there is no vector",
        3: "there is no vector",
        4: "the vector has numbers that are not finite",
        **(
            {}
            if fixed
            else {6: messages[6].split("; ")[0], 7: messages[7].split("; ")[0], 8: messages[8].split("; ")[0]}
        ),
    }
    if not fixed:
        assert "has 3 components; it must have 2" in messages[8]


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("name", ["v.parquet", "v.h5", "v.npz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_raises_an_error(tmp_path: Path, name: str, share: float) -> None:
    vectors = RANDOM.normal(size=(500, 64)).astype(np.float32)
    ids = [str(row) for row in range(500)]
    path = tmp_path / name
    if name == "v.parquet":
        parquet(path, vector=lists(vectors), id=ids)
    else:
        {"v.h5": hdf5, "v.npz": npz}[name](path, features=vectors, ids=np.array(ids, "S" if name == "v.h5" else "U"))
    assert len(items(path)) == 500
    cut(path, share)
    with pytest.raises(SourceError, match="v\\."):
        list(VectorFileSource(path, HERE))


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_a_corrupt_file_raises_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "v.parquet":
        parquet(path, vector=lists(RANDOM.normal(size=(5000, 16))), id=[str(row) for row in range(5000)])
    else:
        np.savez_compressed(path, features=RANDOM.normal(size=(5000, 16)), ids=np.arange(5000))
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 5000] = b"\xff" * 5000
    path.write_bytes(content)
    with suppress(SourceError) if name == "v.parquet" else pytest.raises(SourceError, match="truncated"):
        # No other error is raised. In Parquet, uncompressed numbers become other numbers.
        list(VectorFileSource(path, HERE))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": VECTORS, "ids": np.array(IDS[:5])}, r"'ids' has the shape \(5,\); it must be \(6,\)"),
        ({"features": VECTORS, "ids": np.array(IDS, object)}, "pickled objects"),
        ({"features": VECTORS.astype(object), "ids": np.array(IDS)}, "pickled objects"),
        ({"features": np.asfortranarray(VECTORS), "ids": np.array(IDS)}, "by columns"),
        ({"features": VECTORS.astype(int), "ids": np.array(IDS)}, "must be floats"),
        ({"features": VECTORS[0], "ids": np.array(IDS)}, "must be floats with shape"),
        ({"features": VECTORS, "ids": VECTORS[:, 0]}, "must be texts or integers"),
        ({"features": VECTORS}, "no column has a usual name for ids"),
        ({"other": VECTORS}, "no column has a usual name for vectors"),
        ({"features": np.zeros((1, 40000)), "ids": np.array(["a"])}, "at most 32768"),
    ],
)
def test_unusable_arrays_raise_an_error(tmp_path: Path, arrays: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        VectorFileSource(npz(tmp_path / "v.npz", **arrays), HERE)


def test_unusable_datasets_raise_an_error(tmp_path: Path) -> None:
    secret = hdf5(tmp_path / "secret.h5", features=VECTORS)
    linked = hdf5(tmp_path / "linked.h5", ids=IDS)
    with h5py.File(linked, "a") as file:
        file["features"] = h5py.ExternalLink(str(secret), "/features")
    raw = hdf5(tmp_path / "raw.h5", ids=IDS)
    with h5py.File(raw, "a") as file:
        file.create_dataset("features", (6, 4), "f4", external=[(str(secret), 0, 96)])
    short = hdf5(tmp_path / "short.h5", features=VECTORS, ids=IDS[:4])
    table = hdf5(tmp_path / "table.h5", features=VECTORS, ids=IDS, attributes__x=VECTORS)
    for path, message in {
        linked: "is a link",
        raw: "in other files",
        short: r"shape \(4,\); it must be \(6,\)",
        table: r"'attributes/x' has the shape \(6, 4\)",
        tmp_path / "none.h5": "does not exist",
    }.items():
        with pytest.raises(SourceError, match=message):
            VectorFileSource(path, HERE)


def test_options_cannot_contradict_the_file(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "v.h5", features=VECTORS, ids=IDS)
    with h5py.File(path, "a") as file:
        file.attrs["fingerprint"] = "vgg16"
    assert VectorFileSource(path, VectorOptions()).fingerprint == "vgg16"
    with pytest.raises(SourceError, match="has vectors of vgg16, but --fingerprint is other"):
        VectorFileSource(path, VectorOptions("other"))
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = "2"
    with pytest.raises(SourceError, match="format version 2"):
        VectorFileSource(path, HERE)
