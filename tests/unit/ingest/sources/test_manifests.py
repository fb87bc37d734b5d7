"""Lists and manifests: their rows become items, and an invalid row is reported without ending the listing."""

import datetime as dt
import decimal
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagesearch_ingest.sources import json_rows
from imagesearch_ingest.sources.items import Fault, Item, SkippedFile, SourceError
from imagesearch_ingest.sources.manifest_source import ListSource
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions


def opened(path: Path, **options: Any) -> list[Item | Fault]:
    found = open_source(str(path), SourceOptions(**options))
    return [one for one in found if not isinstance(one, SkippedFile)]


def items(path: Path, **options: Any) -> list[Item]:
    found = opened(path, **options)
    assert not [one for one in found if isinstance(one, Fault)], found
    return [one for one in found if isinstance(one, Item)]


def attributes(path: Path, **options: Any) -> list[Any]:
    return [item.attributes for item in items(path, **options)]


def messages(found: list[Item | Fault]) -> list[str]:
    return [f"{one.where}: {one.message}" for one in found if isinstance(one, Fault)]


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        opened(path, **options)
    return str(caught.value)


def test_list_is_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    (tmp_path / "in").mkdir()
    outside = tmp_path.parent / "outside.jpg"
    lines = [
        "\ufeff# images",
        "",
        "./a.jpg",
        "in//./b.jpg\r",
        f"{tmp_path}/c d.jpg",
        str(outside),
        "s3://b/k.jpg",
        "  ",
    ]
    lines += [f"file://{tmp_path}/%65.jpg", "../up.jpg", "猫.jpg"]
    path = written(tmp_path / "list.txt", "\n".join(lines))
    found = items(path)
    assert [(item.id, item.uri) for item in found] == [
        ("a.jpg", f"{tmp_path}/a.jpg"),
        ("in/b.jpg", f"{tmp_path}/in/b.jpg"),
        ("c d.jpg", f"{tmp_path}/c d.jpg"),
        (str(outside), str(outside)),
        ("s3://b/k.jpg", "s3://b/k.jpg"),
        ("e.jpg", f"{tmp_path}/e.jpg"),
        ("../up.jpg", f"{tmp_path}/../up.jpg"),
        ("猫.jpg", f"{tmp_path}/猫.jpg"),
    ]
    assert found[0].size == 3
    assert found[0].stamp
    assert callable(found[0].content)
    assert found[0].content(2) == b"ab"
    assert [item.size for item in found[1:]] == [None] * 7
    assert open_source(str(path), SourceOptions()).count() == 11


def test_invalid_lines_are_rejected(tmp_path: Path) -> None:
    path = written(tmp_path / "list.txt", b"a.jpg\n\xff.jpg\nb\x00.jpg\n" + b"x" * 100_000 + b"\nc.jpg\n")
    found = opened(path)
    assert [one.id for one in found if isinstance(one, Item)] == ["a.jpg", "c.jpg"]
    faults = [one for one in found if isinstance(one, Fault)]
    assert [(one.where, one.reason, one.may_hide_items) for one in faults] == [
        ("list.txt, line 2", "NAME_NOT_UTF8", False),
        ("list.txt, line 3", "ROW_INVALID", True),
        ("list.txt, line 4", "ROW_INVALID", True),
    ]


@pytest.mark.parametrize("name", ["a.jpg", "..a.jpg", "b..c/a.jpg", "b/../a.jpg"])
def test_spellings_of_a_path_have_one_uri(tmp_path: Path, name: str) -> None:
    (tmp_path / "b").mkdir()
    forms = (name, f"./{name}", f".//{name}", f"{tmp_path}/{name}", f"{tmp_path}/./{name}")
    found = items(written(tmp_path / "list.txt", "\n".join(forms)))
    assert {item.uri for item in found} == {f"{tmp_path}/{name}"}


def test_list_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    path = written(tmp_path / "list.txt", "a.jpg\n/images/b.jpg\n/imagesx/c.jpg\n")
    assert [(item.id, item.uri) for item in items(path, root="/images/")] == [
        ("a.jpg", "/images/a.jpg"),
        ("b.jpg", "/images/b.jpg"),
        ("/imagesx/c.jpg", "/imagesx/c.jpg"),
    ]
    assert items(path, root="s3://bucket/photos")[0].uri == "s3://bucket/photos/a.jpg"
    assert [item.id for item in items(path, by_content=True)] == ["", "", ""]


def test_standard_input_can_be_read_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = ListSource("-", SourceOptions(), io.BytesIO(b"a.jpg\nb.jpg"))
    assert source.count() is None
    assert [one.uri for one in source if isinstance(one, Item)] == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]
    with pytest.raises(SourceError, match="only once"):
        next(iter(source))


CSV = """\ufeffpath,price,stock,zip,sold,name,mixed,empty,big,ean
a.jpg,1.50,3,01234,TRUE,"two
lines",1,,9223372036854775807,12345678901234567890
b.jpg,2,-4,12345,false,x,y,,,
,,,,,,,,,
c.jpg
"""


def test_types_of_csv_columns_are_inferred(tmp_path: Path) -> None:
    found = opened(written(tmp_path / "a.csv", CSV))
    assert [one.attributes for one in found if isinstance(one, Item)] == [
        {
            "price": 1.5,
            "stock": 3,
            "zip": "01234",
            "sold": True,
            "name": "two\nlines",
            "mixed": "1",
            "big": 2**63 - 1,
            "ean": "12345678901234567890",
        },
        {"price": 2.0, "stock": -4, "zip": "12345", "sold": False, "name": "x", "mixed": "y"},
        {},
    ]
    assert messages(found) == ["a.csv, row 4: it has no path"]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2"], [1, 2]),
        (["1", "2.0"], [1.0, 2.0]),
        (["1", "+2"], ["1", "+2"]),
        (["1", "007"], ["1", "007"]),
        (["0", "-0"], [0.0, 0.0]),
        (["1e5", "0.5"], [1e5, 0.5]),
        (["1e999", "0.5"], ["1e999", "0.5"]),
        (["00.5", "1"], ["00.5", "1"]),
        (["1", "9223372036854775808"], ["1", "9223372036854775808"]),
        # As floats these would be rounded to another whole number.
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["-9007199254740993.0", "1"], ["-9007199254740993.0", "1"]),
        (["9007199254740992", "0.5"], [9007199254740992.0, 0.5]),
        (["9007199254740993", "1"], [9007199254740993, 1]),
        (["1e17", "0.5"], [1e17, 0.5]),
        (["True", "fAlse"], [True, False]),
        (["true", "1"], ["true", "1"]),
        (["1", " 2"], [1, 2]),
        (["x", " y "], ["x", "y"]),
        (["Infinity", "1"], ["Infinity", "1"]),
        (["0x10", "1"], ["0x10", "1"]),
        (["yes", "no"], ["yes", "no"]),
        (["2024-05-01", "2024-02-29"], ["2024-05-01", "2024-02-29"]),
        (["2024-05-01 10:00", "2024-05-01"], ["2024-05-01T10:00:00", "2024-05-01"]),
        (["2024-05-01T10:00:00+02:00", "2024-05-01T08:00Z"], ["2024-05-01T08:00:00+00:00"] * 2),
        (["2024-05-01 10:00", "2024-02-30"], ["2024-05-01 10:00", "2024-02-30"]),
        (["2024-05-01", "5"], ["2024-05-01", "5"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["٣", "2"], ["٣", "2"]),
        (["1", "2", "x"], ["1", "2", "x"]),
    ],
)
def test_column_type_fits_all_cells(tmp_path: Path, cells: list[str], values: list[Any]) -> None:
    path = written(tmp_path / "a.csv", "path,v\n" + "".join(f"a.jpg,{cell}\n" for cell in cells))
    found = [row["v"] for row in attributes(path)]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_given_type_is_used(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "path,n,t,b\na.jpg,007,1,true\nb.jpg,x,2,maybe\nc.jpg,1,3,\nd.jpg,1.5,4,\n")
    found = opened(path, types={"n": "int", "t": "text", "b": "bool"})
    assert [one.attributes for one in found if isinstance(one, Item)] == [
        {"n": 7, "t": "1", "b": True},
        {"n": 1, "t": "3"},
    ]
    assert messages(found) == ["a.csv, row 3: n: 'x' is not int", "a.csv, row 5: n: '1.5' is not int"]
    assert "number is not a type" in refused(path, types={"n": "number"})
    assert "no column 'm'" in refused(path, types={"m": "int"})


def test_columns_can_be_renamed_and_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "path,Product Name,other,_note,_kept\na.jpg,shoe,1,n,k\n")
    message = refused(path)
    assert "'Product Name'" in message
    assert "--map 'Product Name=product_name'" in message
    assert "--map 'Product Name='" in message
    assert attributes(path, columns={"Product Name": "name", "other": "", "_kept": "kept"}) == [
        {"name": "shoe", "kept": "k"}
    ]
    assert "no column 'Price'" in refused(path, columns={"Price": "price"})
    assert "two columns" in refused(path, columns={"Product Name": "other"})
    assert "has no effect" in refused(path, columns={"path": "p", "Product Name": ""})


def test_path_and_id_columns_can_be_given(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "sku,where,file\nS1,a.jpg,b.jpg\n")
    (item,) = items(path)
    assert (item.id, item.attributes) == ("b.jpg", {"sku": "S1", "where": "a.jpg"})
    (item,) = items(path, path_column="where", id_column="sku")
    assert (item.id, item.uri, item.attributes) == ("S1", f"{tmp_path}/a.jpg", {"file": "b.jpg"})
    assert "no column 'x'; there are 'sku', 'where', 'file'" in refused(path, path_column="x")
    assert "--id-column" in refused(path, id_column="x")
    assert "--path-column" in refused(written(tmp_path / "b.csv", "a,b\n1,2\n"))
    assert "several columns" in refused(written(tmp_path / "c.csv", "path,a,a\n1,2,3\n"))
    assert "UTF-8" in refused(written(tmp_path / "e.csv", "path,a\n1,2\n".encode("utf-16")))
    assert "--path-column" in refused(written(tmp_path / "f.csv", ""))


def test_rows_have_their_own_ids(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", "id\turl\n007\thttp://h/a.jpg\n\tb.jpg\n猫\tc.jpg\n")
    found = opened(path)
    assert [(one.id, one.uri) for one in found if isinstance(one, Item)] == [
        ("007", "http://h/a.jpg"),
        ("猫", f"{tmp_path}/c.jpg"),
    ]
    assert messages(found) == ["a.tsv, row 3: it has no id, which must be a text or a whole number"]
    assert [(item.id, item.attributes) for item in items(path, by_content=True)] == [("", None)] * 3


def test_invalid_csv_rows_do_not_end_the_listing(tmp_path: Path) -> None:
    rows = [
        b"path,a",
        b"a.jpg,1",
        b"b.jpg,1,2",
        b"c\x00.jpg,1",
        b"\xff.jpg,1",
        b'"d"x.jpg,1',
        b"e.jpg,1",
        b'f.jpg,"open',
    ]
    found = opened(written(tmp_path / "a.csv", b"\n".join(rows)))
    assert [one.id for one in found if isinstance(one, Item)] == ["a.jpg", "e.jpg"]
    output = [one.where for one in found if isinstance(one, Fault) and one.may_hide_items]
    assert output == [f"a.csv, row {number}" for number in (3, 4, 5, 6, 8)]
    assert {one.reason for one in found if isinstance(one, Fault)} == {"ROW_INVALID"}


def test_unbalanced_quote_hides_few_rows(tmp_path: Path) -> None:
    rows = ["path,a", 'a.jpg,"open'] + [f"{number}.jpg,1" for number in range(30_000)]
    found = opened(written(tmp_path / "a.csv", "\n".join(rows)))
    assert any(isinstance(one, Fault) and one.may_hide_items for one in found)
    assert sum(isinstance(one, Item) for one in found) > 10_000


JSON_VALUES = {"s": "x", "i": 3, "f": 1.5, "b": True, "l": ["a", "b"], "none": None, "empty": []}


def test_json_values_become_attributes(tmp_path: Path) -> None:
    lines = [
        {"path": "a.jpg", **JSON_VALUES, "nan": float("nan")},
        {"path": "b.jpg", "attributes": {"price": 2, "no": None}, "extra": "x"},
        {"path": "c.jpg"},
        {"path": "d.jpg", "price": None},
        {"path": "e.jpg", "attributes": None},
        {"path": "f.jpg", "attributes": {}},
        {"image_url": "http://h/g.jpg", "id": 12},
    ]
    text = "\ufeff" + "\n\n".join(json.dumps(line) for line in lines)
    found = items(written(tmp_path / "a.jsonl", text))
    assert [item.attributes for item in found] == [
        {"s": "x", "i": 3, "f": 1.5, "b": True, "l": ["a", "b"], "empty": []},
        {"price": 2, "extra": "x"},
        None,
        {},
        None,
        {},
        None,
    ]
    assert (found[-1].id, found[-1].uri) == ("12", "http://h/g.jpg")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        "3",
        '{"path": 3}',
        '{"path": ""}',
        '{"a": 1}',
        '{"path": "a.jpg", "id": ""}',
        '{"path": "a.jpg", "id": 1.5}',
        '{"path": "a.jpg", "id": true}',
        '{"path": "a.jpg", "v": {"a": 1}}',
        '{"path": "a.jpg", "v": [1]}',
        '{"path": "a.jpg", "v": ["a", null]}',
        '{"path": "a.jpg", "v": Infinity}',
        '{"path": "a.jpg", "v": 1e999}',
        '{"path": "a.jpg", "v": 9223372036854775808}',
        '{"path": "a.jpg", "v": "\\ud800"}',
        '{"path": "a.jpg", "bad name": 1}',
        '{"path": "a.jpg", "v": 1, "attributes": {"v": 2}}',
        '{"path": "a.jpg", "attributes": 2}',
        '{"path": "a\\u0000.jpg"}',
        '{"path": "a.jpg", "v": ' + "9" * 5000 + "}",
        '{"path": "a.jpg", "v": ' + "[" * 100_000,
    ],
)
def test_invalid_json_line_is_rejected(tmp_path: Path, line: str) -> None:
    found = opened(written(tmp_path / "a.ndjson", f'{{"path": "x.jpg"}}\n{line}\n{{"path": "y.jpg"}}'))
    first, fault, last = found
    assert isinstance(first, Item)
    assert isinstance(last, Item)
    assert isinstance(fault, Fault)
    assert (fault.where, fault.reason, fault.may_hide_items) == ("a.ndjson, row 2", "ROW_INVALID", True)


def test_undecodable_bytes_and_endless_lines_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "LONGEST_LINE", 100)
    text = b'{"path": "a.jpg"}\n{"path": "\xff.jpg"}\n' + b"x" * 1000 + b'\n{"path": "\\udc80.jpg"}\n{"path": "b.jpg"}'
    found = opened(written(tmp_path / "a.jsonl", text))
    assert [type(one) for one in found] == [Item, Fault, Fault, Fault, Item]


def test_json_mistakes_are_reported_before_the_load(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"path": "a.jpg", "Product Name": "x"}')
    assert "--map 'Product Name=product_name'" in refused(path)
    assert attributes(path, columns={"Product Name": "name"}) == [{"name": "x"}]
    assert attributes(path, columns={"Product Name": ""}) == [None]
    assert "one object in each line" in refused(written(tmp_path / "b.jsonl", '[{"path": "a.jpg"}]'))
    assert "--column-type" in refused(path, types={"a": "int"})


def test_file_of_rejects_is_a_manifest(tmp_path: Path) -> None:
    line = {
        "uri": "/a/b.jpg",
        "id": "b",
        "attributes": {"price": 3.5},
        "_reason": "UNREADABLE",
        "_message": "it is gone",
    }
    (item,) = items(written(tmp_path / "rejects.jsonl", json.dumps(line)))
    assert (item.id, item.uri, item.attributes) == ("b", "/a/b.jpg", {"price": 3.5})


def table(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_parquet_types_become_attributes(tmp_path: Path) -> None:
    day, time = dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 12, 30, 1, tzinfo=dt.UTC)
    path = table(
        tmp_path / "a.parquet",
        {
            "path": ["a.jpg", "b.jpg", "c.jpg"],
            "id": pa.array([1, 2, 3], pa.uint32()),
            "s": pa.array(["x", None, "z"], pa.large_string()),
            "b": [True, None, False],
            "i": pa.array([1, None, -3], pa.int16()),
            "f": pa.array([1.5, None, 2.5], pa.float32()),
            "h": pa.array([1.5, None, 2.5], pa.float16()),
            "l": [["a"], None, []],
            "c": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-2.50")]),
            "d": [day, None, day],
            "t": pa.array([time, None, time], pa.timestamp("ns", "UTC")),
            "k": pa.array(["red", None, "red"]).dictionary_encode(),
            "n": pa.nulls(3),
        },
    )
    first, second, third = items(path)
    assert first.id == "1"
    assert first.attributes == {
        "s": "x",
        "b": True,
        "i": 1,
        "f": 1.5,
        "h": 1.5,
        "l": ["a"],
        "c": 1.25,
        "d": "2024-02-29",
        "t": "2024-02-29T12:30:01+00:00",
        "k": "red",
    }
    assert second.attributes == {}
    assert third.attributes is not None
    assert third.attributes["l"] == []
    assert open_source(str(path), SourceOptions()).count() == 3


def test_parquet_decimals_keep_whole_numbers(tmp_path: Path) -> None:
    def column(*values: str, scale: int = 0) -> Any:
        return pa.array([None if value == "" else decimal.Decimal(value) for value in values], pa.decimal128(30, scale))

    big = str(2**53 + 1)
    path = table(
        tmp_path / "a.parquet",
        {
            "path": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            "whole": column(big, "5", "", str(2**63)),
            "part": column("1.25", "3.00", f"{big}.00", "0.10", scale=2),
        },
    )
    found = opened(path)
    kept = [one.attributes for one in found if isinstance(one, Item)]
    assert kept == [{"whole": 2**53 + 1, "part": 1.25}, {"whole": 5, "part": 3.0}]
    assert [type(value) for row in kept if row for value in row.values()] == [int, float, int, float]
    assert messages(found) == [
        f"a.parquet, row 3: part: {big}.00 would be rounded: a number with a fraction has 53 bits; store it as text",
        "a.parquet, row 4: whole: the number has more than 64 bits",
    ]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([{"a": 1}]),
        pa.array([b"x"]),
        pa.array([[1]]),
        pa.array([dt.time(1)]),
        pa.array([[["a"]]]),
        pa.array([dt.timedelta(1)]),
    ],
)
def test_unsupported_parquet_type_is_reported_before_the_load(tmp_path: Path, values: Any) -> None:
    path = table(tmp_path / "a.parquet", {"path": ["a.jpg"], "v": values})
    assert "--map 'v='" in refused(path)
    assert attributes(path, columns={"v": ""}) == [None]


def test_parquet_mistakes_are_reported_before_the_load(tmp_path: Path) -> None:
    assert "there are 'a'" in refused(table(tmp_path / "a.parquet", {"a": ["x"]}))
    assert "a path or URL is a text" in refused(table(tmp_path / "a.parquet", {"path": [1]}))
    assert "an id is" in refused(table(tmp_path / "a.parquet", {"path": ["x"], "id": [1.5]}))
    assert "Product Name" in refused(table(tmp_path / "a.parquet", {"path": ["x"], "Product Name": [1]}))
    assert "not a readable Parquet file" in refused(written(tmp_path / "b.parquet", "path\n"))
    assert "not a readable Parquet file" in refused(written(tmp_path / "c.parquet", ""))


def test_invalid_parquet_value_invalidates_only_its_row(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.parquet",
        {
            "path": ["a.jpg", "b.jpg", "c.jpg", None, "e.jpg", "f.jpg"],
            "f": [1.0, float("nan"), float("inf"), 1.0, 1.0, 1.0],
            "u": pa.array([1, 1, 1, 1, 2**63, 1], pa.uint64()),
            "t": pa.array([0, 0, 0, 0, 0, 2**62], pa.timestamp("us")),
        },
    )
    found = opened(path)
    assert [type(one) for one in found] == [Item, Item, *[Fault] * 4]
    output = messages(found)
    assert "row 3: f: inf" in output[0]
    assert "row 4: it has no path" in output[1]
    assert "64 bits" in output[2]
    assert "row 6: t" in output[3]


def test_damaged_manifest_is_reported(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", {"path": [f"{number}.jpg" for number in range(6000)]})
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 5000] = b"\xff" * 5000
    source = open_source(str(path), SourceOptions())
    path.write_bytes(content)
    found = list(source)
    assert isinstance(found[-1], Fault)
    assert (found[-1].reason, found[-1].may_hide_items) == ("MANIFEST_UNREADABLE", True)
    path.unlink()
    assert [one.reason for one in source if isinstance(one, Fault)] == ["MANIFEST_UNREADABLE"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_entries(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    rows = [{"path": f"/gone/{number}.jpg", "price": number, "name": "x" * 100} for number in range(20_000)]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5000)
    elif suffix == "csv":
        path.write_text("path,price,name\n" + "".join(f"{r['path']},{r['price']},{r['name']}\n" for r in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(path), SourceOptions())
    next(iter(source))
    tracemalloc.start()
    try:
        assert sum(isinstance(one, Item) for one in source) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_rejects_without_an_image_are_ignored(tmp_path: Path) -> None:
    lines = [{"_where": "/photos/below", "_reason": "FOLDER_UNREADABLE"}, {"uri": "/a.jpg", "_reason": "UNREADABLE"}]
    found = opened(written(tmp_path / "rejects.jsonl", "\n".join(map(json.dumps, lines))))
    assert [one.uri for one in found if isinstance(one, Item)] == ["/a.jpg"]
    assert len(found) == 1
