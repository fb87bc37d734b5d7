"""Files of vectors that others made, and those that are broken."""

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
from imagesearch_ingest.vector_files.source import VectorFile, VectorOptions
from search_service.core import vector_checks

HERE = VectorOptions(fingerprint="vgg16")
RANDOM = np.random.default_rng(5)
VECTORS = RANDOM.normal(size=(6, 4)).astype(np.float32)
IDS = [f"i{row}" for row in range(6)]


def items(path: Path, options: VectorOptions = HERE) -> list[Item]:
    found = list(VectorFile(path, options))
    assert not [each for each in found if isinstance(each, Fault)], found
    return [each for each in found if isinstance(each, Item)]


def faults(path: Path, options: VectorOptions = HERE) -> dict[str, str]:
    found = [each for each in VectorFile(path, options) if isinstance(each, Fault)]
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


def test_hdf5_as_tutorials_write_it(tmp_path: Path) -> None:
    vectors = RANDOM.random((3000, 512), dtype=np.float32)
    names = [f"{row}.jpg".encode() for row in range(3000)]
    path = hdf5(tmp_path / "features.h5", dataset_1=vectors, dataset_2=np.array(names))
    source = VectorFile(path, HERE)
    assert (source.dimension, source.fingerprint, source.count()) == (512, "vgg16", 3000)
    assert source.name == str(path)
    found = items(path)
    assert [item.id for item in found] == [name.decode() for name in names]
    assert values(found[2999]) == vectors[2999].tolist()
    assert (found[0].uri, found[0].attributes, found[0].size, found[0].region) == ("", None, None, None)
    assert found[0].stamp == hashlib.blake2b(vectors[0].tobytes(), digest_size=16).hexdigest()


def test_a_vector_is_taken_by_a_message(tmp_path: Path) -> None:
    content = items(npz(tmp_path / "v.npz", vectors=VECTORS, ids=np.array(IDS)))[1].content
    assert isinstance(content, Embedding)
    message = embedding_pb2.Embedding(values=content.values, fingerprint=content.fingerprint)
    assert list(message.values) == VECTORS[1].tolist()


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4", ">f8"])
def test_any_floats_are_taken(tmp_path: Path, kind: str) -> None:
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
def test_ids_are_texts_bytes_or_whole_numbers(tmp_path: Path, make: Callable[..., Path]) -> None:
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
        f"bad.{suffix}, row 2": "its id is b'\\xff\\xfe', which is no UTF-8",
        f"bad.{suffix}, row 3": "it has no id",
    }


def test_columns_of_parquet_become_attributes(tmp_path: Path) -> None:
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
        VectorFile(path, HERE)
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
    ("column", "told"),
    [
        (pa.array([1, 2], pa.duration("us")), "'when' is duration"),
        (pa.array([b"a", b"b"]), "'when' is binary"),
        (lists([[1.0], [2.0]]), "'when' is list"),
        (pa.array([{"a": 1}, {"a": 2}]), "'when' is struct"),
    ],
)
def test_a_column_that_no_attribute_can_be_is_told(tmp_path: Path, column: Any, told: str) -> None:
    path = parquet(tmp_path / "v.parquet", vector=lists(VECTORS[:2]), id=["a", "b"], when=column)
    with pytest.raises(SourceError, match=told):
        VectorFile(path, HERE)
    assert len(items(path, VectorOptions(fingerprint="f", columns={"when": ""}))) == 2


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "v.parquet", v=lists(VECTORS), id=IDS, sku=IDS[::-1], url=IDS)
    options = VectorOptions("f", vector="v", id="sku", uri="url")
    first = items(path, options)[0]
    assert (first.id, first.uri, first.attributes) == ("i5", "i0", {"id": "i0"})
    for wrong, told in [
        (VectorOptions("f"), "nothing is called as vectors are"),
        (VectorOptions("f", vector="w"), "there is no 'w'; there are 'id', 'sku', 'url', 'v'"),
        (VectorOptions("f", vector="v", columns={"x": "y"}), "no attribute 'x'"),
        (VectorOptions("f", vector="v", columns={"url": "sku"}), "two columns would be the attribute sku"),
        (VectorOptions(vector="v"), "does not say which model"),
    ]:
        with pytest.raises(SourceError, match=told):
            VectorFile(path, wrong)


def test_attributes_of_hdf5(tmp_path: Path) -> None:
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


def test_attributes_in_json_are_checked_row_by_row(tmp_path: Path) -> None:
    texts = ['{"a":1}', "{", "[1]", '{"a":null}', '{"a":{"b":1}}', f'{{"a":{2**63}}}']
    path = npz(tmp_path / "v.npz", features=VECTORS, ids=np.array(IDS), attributes=np.array(texts))
    told = faults(path)
    assert [where[-1] for where in told] == ["2", "3", "5", "6"]
    assert "no JSON" in told["v.npz, row 2"]
    assert "attribute 'a' is {'b': 1}" in told["v.npz, row 5"]


def odd_vectors() -> np.ndarray[Any, np.dtype[np.float64]]:
    vectors = VECTORS.astype(np.float64)
    vectors[1] = 0
    vectors[2, 3] = np.nan
    vectors[3, 0] = np.inf
    # No float32 has them.
    vectors[4, 0] = 1e300
    vectors[5] = 1e-300
    return vectors


def test_vectors_that_cannot_be_stored_are_faults(tmp_path: Path) -> None:
    vectors = odd_vectors()
    for path in (
        npz(tmp_path / "v.npz", features=vectors, ids=np.array(IDS)),
        hdf5(tmp_path / "v.h5", features=vectors, ids=IDS),
        parquet(tmp_path / "v.parquet", features=lists(vectors, pa.list_(pa.float64())), ids=IDS),
    ):
        told = faults(path)
        assert [told[f"{path.name}, row {row}"].split("is ")[-1] for row in (2, 6)] == ["all zero"] * 2
        assert [
            row for row in range(1, 7) if told.get(f"{path.name}, row {row}", "").endswith("that are not finite")
        ] == [3, 4, 5]
        assert len(told) == 5


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
    found = list(VectorFile(path, HERE))
    reasons = [each.reason if isinstance(each, Fault) else "" for each in found]
    short, long = ["VECTOR_LENGTH_INVALID"], ["VECTOR_LENGTH_INVALID"]
    assert reasons == [*short, "", "", *long, *short, *long]


@pytest.mark.parametrize("fixed", [True, False])
def test_lists_that_are_no_vectors_are_faults(tmp_path: Path, fixed: bool) -> None:
    rows: list[Any] = [None, [1.0, 2.0], None, [3.0, None], [0.5, 0.25]]
    if not fixed:
        rows += [[1.0], [], [1.0, 2.0, 3.0]]
    kind = pa.list_(pa.float32(), 2) if fixed else pa.large_list(pa.float32())
    path = parquet(tmp_path / "v.parquet", vector=lists(rows, kind), id=[str(row) for row in range(len(rows))])
    source = VectorFile(path, HERE)
    assert source.dimension == 2
    told = {int(where.rpartition(" ")[2]): message for where, message in faults(path).items()}
    assert [item.id for item in source if isinstance(item, Item)] == ["1", "4"]
    assert {row: message.split("; ")[0] for row, message in told.items()} == {
        1: "it has no vector",
        3: "it has no vector",
        4: "its vector has numbers that are not finite",
        **({} if fixed else {6: told[6], 7: told[7], 8: told[8]}),
    }
    if not fixed:
        assert "has 3 numbers, and those before it have 2" in told[8]


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("name", ["v.parquet", "v.h5", "v.npz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_told(tmp_path: Path, name: str, share: float) -> None:
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
        list(VectorFile(path, HERE))


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_a_file_with_other_bytes_inside_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "v.parquet":
        parquet(path, vector=lists(RANDOM.normal(size=(5000, 16))), id=[str(row) for row in range(5000)])
    else:
        np.savez_compressed(path, features=RANDOM.normal(size=(5000, 16)), ids=np.arange(5000))
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 5000] = b"\xff" * 5000
    path.write_bytes(content)
    with suppress(SourceError) if name == "v.parquet" else pytest.raises(SourceError, match="cut off"):
        # Nothing else is raised; of uncompressed numbers in Parquet others are numbers too.
        list(VectorFile(path, HERE))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"features": VECTORS, "ids": np.array(IDS[:5])}, r"'ids' has the shape \(5,\), and there are 6 vectors"),
        ({"features": VECTORS, "ids": np.array(IDS, object)}, "pickled objects"),
        ({"features": VECTORS.astype(object), "ids": np.array(IDS)}, "pickled objects"),
        ({"features": np.asfortranarray(VECTORS), "ids": np.array(IDS)}, "by columns"),
        ({"features": VECTORS.astype(int), "ids": np.array(IDS)}, "should be floats"),
        ({"features": VECTORS[0], "ids": np.array(IDS)}, "should be floats of the shape"),
        ({"features": VECTORS, "ids": VECTORS[:, 0]}, "should be texts or whole numbers"),
        ({"features": VECTORS}, "nothing is called as ids are"),
        ({"other": VECTORS}, "nothing is called as vectors are"),
        ({"features": np.zeros((1, 40000)), "ids": np.array(["a"])}, "at most 32768"),
    ],
)
def test_arrays_that_do_not_do_are_told(tmp_path: Path, arrays: Mapping[str, Any], told: str) -> None:
    with pytest.raises(SourceError, match=told):
        VectorFile(npz(tmp_path / "v.npz", **arrays), HERE)


def test_datasets_that_do_not_do_are_told(tmp_path: Path) -> None:
    secret = hdf5(tmp_path / "secret.h5", features=VECTORS)
    linked = hdf5(tmp_path / "linked.h5", ids=IDS)
    with h5py.File(linked, "a") as file:
        file["features"] = h5py.ExternalLink(str(secret), "/features")
    raw = hdf5(tmp_path / "raw.h5", ids=IDS)
    with h5py.File(raw, "a") as file:
        file.create_dataset("features", (6, 4), "f4", external=[(str(secret), 0, 96)])
    short = hdf5(tmp_path / "short.h5", features=VECTORS, ids=IDS[:4])
    table = hdf5(tmp_path / "table.h5", features=VECTORS, ids=IDS, attributes__x=VECTORS)
    for path, told in {
        linked: "is a link",
        raw: "in other files",
        short: r"shape \(4,\), and there are 6 vectors",
        table: r"'attributes/x' has the shape \(6, 4\)",
        tmp_path / "none.h5": "no such file",
    }.items():
        with pytest.raises(SourceError, match=told):
            VectorFile(path, HERE)


def test_what_a_file_says_of_itself_is_not_overruled(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "v.h5", features=VECTORS, ids=IDS)
    with h5py.File(path, "a") as file:
        file.attrs["fingerprint"] = "vgg16"
    assert VectorFile(path, VectorOptions()).fingerprint == "vgg16"
    with pytest.raises(SourceError, match="are of vgg16, and the option says other"):
        VectorFile(path, VectorOptions("other"))
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = "2"
    with pytest.raises(SourceError, match="format version 2"):
        VectorFile(path, HERE)
