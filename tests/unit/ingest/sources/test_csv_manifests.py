"""CSV files of people and programs: missing values, names, rows, and what is reported."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from imagesearch_cli.app import app
from imagesearch_ingest.sources import csv_records
from imagesearch_ingest.sources.items import Fault, Item, SourceError
from imagesearch_ingest.sources.manifest_source import ManifestSource
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions


def manifest(path: Path, text: str | bytes, **options: Any) -> ManifestSource:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_source(str(path), SourceOptions(**options))
    assert isinstance(source, ManifestSource)
    return source


def attributes(source: ManifestSource) -> list[Any]:
    return [one.attributes if isinstance(one, Item) else one.message for one in source]


NULL_WORDS = ["", "null", "NULL", "None", "NaN", "nan", " null "]


@pytest.mark.parametrize("word", NULL_WORDS)
def test_null_words_are_missing_values(tmp_path: Path, word: str) -> None:
    rows = f"path,price,stock,sold,day,name\na.jpg,3.5,1,true,2024-05-01,x\nb.jpg,{word},{word},{word},{word},{word}\n"
    source = manifest(tmp_path / "a.csv", rows)
    assert attributes(source) == [{"price": 3.5, "stock": 1, "sold": True, "day": "2024-05-01", "name": "x"}, {}]


@pytest.mark.parametrize("word", ["NA", "N/A", "n/a", "none", "-", "Null", "undefined"])
def test_other_words_are_text_and_are_reported(tmp_path: Path, word: str) -> None:
    source = manifest(tmp_path / "a.csv", f"path,price\na.jpg,3.5\nb.jpg,{word}\nc.jpg,4\n")
    assert attributes(source) == [{"price": "3.5"}, {"price": word}, {"price": "4"}]
    (remark,) = source.remarks
    assert remark.startswith(
        f"a.csv: price is text because of 1 cell, first '{word}' in row 3; --column-type 'price=float' "
    )


def test_suggested_column_type_works(tmp_path: Path) -> None:
    text = "path,price,n,day\na.jpg,3.5,1,2024-05-01\nb.jpg,n/a,2,2024-05-02\nc.jpg,4,x,someday\n"
    types = {}
    source = manifest(tmp_path / "a.csv", text)
    assert len(list(source)) == 3
    for remark in source.remarks:
        column, _, kind = remark.partition("--column-type '")[2].partition("'")[0].partition("=")
        types[column] = kind
    assert types == {"price": "float", "n": "int", "day": "date"}
    again = manifest(tmp_path / "a.csv", text, types=types)
    assert attributes(again) == [
        {"price": 3.5, "n": 1, "day": "2024-05-01"},
        "price: 'n/a' is not float",
        "n: 'x' is not int",
    ]
    assert again.remarks == []


def test_dropped_null_words_of_text_columns_are_reported(tmp_path: Path) -> None:
    text = "path,mark\na.jpg,None\nb.jpg,CE\nc.jpg, NULL\n"
    source = manifest(tmp_path / "a.csv", text)
    assert attributes(source) == [{}, {"mark": "CE"}, {}]
    (remark,) = source.remarks
    assert "mark has no value in 2 cells (NULL, None); --column-type 'mark=text' keeps such cells as texts" in remark
    kept = manifest(tmp_path / "a.csv", text, types={"mark": "text"})
    assert attributes(kept) == [{"mark": "None"}, {"mark": "CE"}, {"mark": " NULL"}]


def test_row_without_path_or_id_is_rejected(tmp_path: Path) -> None:
    source = manifest(tmp_path / "a.csv", "path,id\na.jpg,null\nNULL,x\nb.jpg,y\n")
    assert [type(one) for one in source] == [Fault, Fault, Item]


@pytest.mark.parametrize(
    "text",
    [
        'path, id, price, name\n0.jpg, sku-1, 3.5, x\n1.jpg, sku-2, 4," a, b"\n',
        'path, id, price, name\n0.jpg, sku-1, 3.5, x\n1.jpg, sku-2, 4, " a, b"\n',
        ' path ,id , price,name\t\n 0.jpg ,sku-1 ,3.5 , x\n1.jpg,sku-2,4," a, b "\n',
        "path;id;price;name\n0.jpg;sku-1;3.5;x\n1.jpg;sku-2;4;a, b\n",
        "path; id; price; name\n0.jpg; sku-1; 3.5; x\n1.jpg; sku-2; 4; a, b\n",
        "path\tid\tprice\tname\n0.jpg\tsku-1\t3.5\tx\n1.jpg\tsku-2\t4\ta, b\n",
        "path|id|price|name\n0.jpg|sku-1|3.5|x\n1.jpg|sku-2|4|a, b\n",
        '\ufeffpath,id,price,name\r\n0.jpg,sku-1,3.5,x\r\n1.jpg,sku-2,4,"a, b"\r\n',
        'path,id,price,name\r0.jpg,sku-1,3.5,x\r1.jpg,sku-2,4,"a, b"\r',
        'path,id,price,name,\n0.jpg,sku-1,3.5,x,\n1.jpg,sku-2,4,"a, b",\n',
        'path,id,price,name,,\n0.jpg,sku-1,3.5,x,,\n1.jpg,sku-2,4,"a, b"\n',
        'path,id,price,name\n0.jpg,sku-1,3.5,x,\n1.jpg,sku-2,4,"a, b", ,\n',
    ],
)
def test_csv_dialects_are_read_alike(tmp_path: Path, text: str) -> None:
    source = manifest(tmp_path / "a.csv", text)
    assert [(one.id, one.uri, one.attributes) for one in source if isinstance(one, Item)] == [
        ("sku-1", f"{tmp_path}/0.jpg", {"price": 3.5, "name": "x"}),
        ("sku-2", f"{tmp_path}/1.jpg", {"price": 4.0, "name": "a, b"}),
    ]
    assert len(list(source)) == 2
    assert source.remarks == []


def test_column_without_name_is_reported(tmp_path: Path) -> None:
    source = manifest(tmp_path / "a.csv", ",path,price\n0,a.jpg,1\n1,b.jpg,2\n")
    assert attributes(source) == [{"price": 1}, {"price": 2}]
    assert source.remarks == ["a.csv: column 1 has no name and is ignored; 2 cells, first '0' in row 2"]


def test_names_that_differ_only_in_spaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="several columns of the same name: 'a'"):
        manifest(tmp_path / "a.csv", "path,a, a\nx.jpg,1,2\n")


@pytest.mark.parametrize("length", [131_072, 131_073, 2_000_000])
def test_long_cell_invalidates_only_its_row(tmp_path: Path, length: int) -> None:
    text = f'path,about\na.jpg,{"x" * length}\nb.jpg,"{"y " * 10}\n{"y" * length}"\nc.jpg,z\n'
    first, second, last = attributes(manifest(tmp_path / "a.csv", text))
    assert last == {"about": "z"}
    if length == 131_072:
        assert first == {"about": "x" * length}
    else:
        assert first == (
            f"about: the cell has {length} characters; the limit is 131072; --map 'about=' leaves the column out"
        )
    assert "about: the cell has" in second
    left_out = manifest(tmp_path / "a.csv", text, columns={"about": ""})
    assert [one.id for one in left_out if isinstance(one, Item)] == ["a.jpg", "b.jpg", "c.jpg"]


def test_endless_line_invalidates_only_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "LONGEST", 1000)
    text = f'path,about\na.jpg,{"x" * 4500}\nb.jpg,y\n{"z" * 1000}\nc.jpg,"{"w" * 999}"\nd.jpg,v\n'
    found = list(manifest(tmp_path / "a.csv", text))
    assert [one.id for one in found if isinstance(one, Item)] == ["b.jpg", "d.jpg"]
    assert [one.where for one in found if isinstance(one, Fault)] == [f"a.csv, row {row}" for row in (2, 4, 5)]
    assert csv.field_size_limit() >= 131_072


def test_unbalanced_quote_invalidates_only_its_row(tmp_path: Path) -> None:
    rows = ["path,a", 'a.jpg,"open'] + [f"{number}.jpg,1" for number in range(30_000)]
    found = list(manifest(tmp_path / "a.csv", "\n".join(rows)))
    assert sum(isinstance(one, Item) for one in found) == 30_000
    assert [one.where for one in found if isinstance(one, Fault)] == ["a.csv, row 2"]


@pytest.mark.parametrize(
    ("cell", "kind", "value"),
    [
        ("+5", "int", 5),
        ("007", "int", 7),
        (" 5 ", "int", 5),
        ("5", "float", 5.0),
        (".5", "float", 0.5),
        ("9007199254740993", "int", 2**53 + 1),
        ("2024-05-01", "date", "2024-05-01"),
        ("2024-05-01 10:00:00.5", "date", "2024-05-01T10:00:00.500000"),
        ("TRUE", "bool", True),
    ],
)
def test_given_type_accepts_more_spellings(tmp_path: Path, cell: str, kind: str, value: object) -> None:
    (found,) = attributes(manifest(tmp_path / "a.csv", f"path,v\na.jpg,{cell}\n", types={"v": kind}))
    assert found == {"v": value}
    assert type(found["v"]) is type(value)


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("9007199254740993", "float"),
        ("9223372036854775808", "int"),
        ("1e400", "float"),
        ("Infinity", "float"),
        ("1_000", "int"),
        ("٣", "int"),
        ("0x10", "int"),
        ("2024-02-30", "date"),
        ("01.05.2024", "date"),
        ("yes", "bool"),
    ],
)
def test_given_type_rejects_other_cells(tmp_path: Path, cell: str, kind: str) -> None:
    (found,) = attributes(manifest(tmp_path / "a.csv", f"path,v\na.jpg,{cell}\n", types={"v": kind}))
    assert found.startswith(f"v: '{cell}'")


def test_command_reports_why_a_column_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("path,price\na.jpg,1\nb.jpg,n/a\nc.jpg,2\n")
    arguments = ["ingest", str(path), "--dry-run", "--ledger", str(tmp_path / "ledger")]
    output = CliRunner().invoke(app, arguments)
    assert "note: a.csv: price is text because of 1 cell, first 'n/a' in row 3" in output.stderr
    answer = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    (remark,) = answer["remarks"]
    assert remark.endswith("--column-type 'price=int' rejects rows whose price is no int")
    typed = json.loads(CliRunner().invoke(app, [*arguments, "--json", "--column-type", "price=int"]).stdout)
    assert (typed["remarks"], typed["reasons"]["ROW_INVALID"]) == ([], 1)
