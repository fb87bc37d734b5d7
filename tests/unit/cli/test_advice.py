"""Every option that a message of a load suggests helps, in the form in which the message writes it."""

import ast
import json
import re
import shlex
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import imagesearch_ingest
from imagesearch_cli.app import app
from imagesearch_client import Collection, Index, Metric
from imagesearch_ingest.load.ledger import Ledger
from imagesearch_ingest.load.ledger_database import LedgerError
from imagesearch_ingest.load.ledger_rows import CollectionIdentity, ItemState, row_of_item
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.items import Item, SourceError
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.vector_files.vector_file_source import VectorFileSource, VectorOptions

ROOT = Path(imagesearch_ingest.__file__).parents[1]
MODULES = [
    *sorted((ROOT / "imagesearch_ingest").rglob("*.py")),
    *(ROOT / "imagesearch_cli" / f"{name}.py" for name in ("ingest", "transfer", "load_setup", "load_summary")),
]
OPTION = re.compile(r"--[a-z][a-z-]*")
# What the messages of each module advise; each is tried by a test here, or by the one that is named.
TRIED = {
    "imagesearch_ingest/sources/tar_source.py": {"--hard-dereference": "test_sidecars.test_suggestion_for_links_works"},
    "imagesearch_ingest/sources/manifest_columns.py": {"--path-column": "", "--map": ""},
    "imagesearch_ingest/sources/csv_rows.py": {"--map": ""},
    "imagesearch_ingest/sources/csv_types.py": {"--column-type": "test_csv_manifests.test_suggested_column_type_works"},
    "imagesearch_ingest/sources/allowed_uris.py": {"--open": "test_allowed_uris.test_only_given_places_are_allowed"},
    "imagesearch_ingest/sources/image_formats.py": {
        "--any-name": "test_image_formats.test_any_name_accepts_images_by_their_content"
    },
    "imagesearch_ingest/sources/open_source.py": {
        "--format": "",
        "--any-name": "test_image_formats.test_any_name_accepts_a_single_file",
    },
    "imagesearch_ingest/sources/parquet_rows.py": {
        "--map": "test_parquet_values.test_both_readers_refuse_the_same_columns_and_suggest_a_fix"
    },
    "imagesearch_ingest/sources/attribute_values.py": {"--map": ""},
    "imagesearch_ingest/load/ledger_database.py": {"--ledger": "", "--restart": ""},
    "imagesearch_ingest/load/pruning.py": dict.fromkeys(
        ("--prune", "--dry-run", "--max-pruned"), "test_pruning.test_command_refuses_large_prunes_and_names_images"
    ),
    "imagesearch_ingest/load/id_conflicts.py": {"--replace": "test_id_conflicts.test_replace_stores_the_new_image"},
    "imagesearch_ingest/vector_files/export.py": {
        "--force": "test_transfer.test_an_imported_export_finds_the_same_hits",
        "--restart": "test_export.test_a_collection_created_again_during_the_export_raises_an_error",
    },
    "imagesearch_ingest/vector_files/column_names.py": {"--map": ""},
    "imagesearch_ingest/vector_files/export_parts.py": {
        "--restart": "test_export.test_damaged_parts_raise_an_error_with_the_remedy"
    },
    "imagesearch_ingest/vector_files/parquet_reader.py": {
        "--map": "test_parquet_values.test_both_readers_refuse_the_same_columns_and_suggest_a_fix"
    },
    "imagesearch_ingest/vector_files/vector_file_source.py": {"--fingerprint": ""},
    "imagesearch_cli/load_summary.py": {"--retry-failed": "", "--rejects": ""},
}
# What messages say of options that were given: they advise nothing.
SAID = {
    "imagesearch_ingest/empty_collection.py": {"--where"},
    "imagesearch_ingest/sources/allowed_uris.py": {"--root"},
    "imagesearch_ingest/sources/manifest_columns.py": {"--id-column"},
    "imagesearch_ingest/sources/open_source.py": {"--id-column"},
    "imagesearch_cli/ingest.py": {"--limit", "--prune"},
}


def advised(path: Path) -> set[str]:
    """The options in the messages of a module: not in its docstrings, and not in the help of its options."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            left_out |= {id(each.value) for each in node.body if isinstance(each, ast.Expr)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.Option", "typer.Argument"):
            left_out |= {id(each) for each in ast.walk(node)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "suggest_option":
            found |= {str(ast.literal_eval(node.args[0]))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            found |= set(OPTION.findall(node.value)) if " " in node.value.strip() else set()
    return found


def test_every_option_that_a_message_suggests_has_a_test() -> None:
    missing = {}
    for path in MODULES:
        name = str(path.relative_to(ROOT))
        if options := advised(path) - set(TRIED.get(name, {})) - SAID.get(name, set()):
            missing[name] = options
    assert missing == {}, "a message advises an option that no test tries: write the test, and name it in TRIED"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 40), (200, 0, 0)).save(path)
    return path


def ingest(source: Path, *options: str) -> tuple[int, str]:
    """The exit code and all that the command prints, as one line."""
    ledger = [] if "--ledger" in options else ["--ledger", str(source.parent / "own.ledger")]
    found = CliRunner().invoke(app, ["ingest", str(source), "--dry-run", *options, *ledger])
    return found.exit_code, " ".join(found.output.replace("│", " ").split())


def options_in(message: str) -> list[list[str]]:
    """Each option with a value that a message advises, as a shell reads it."""
    found = re.findall(r"""--[a-z-]+ (?:'[^']*'(?:"'"'[^']*')*)""", message)
    return [shlex.split(each) for each in found]


@pytest.mark.usefixtures("photo")
@pytest.mark.parametrize(
    "columns",
    [
        ["Product Name"],
        ["it's"],
        ["a=b", "a b"],
        ["Price (EUR)", "price_eur"],
        ["价格", "名称"],
        ["1st", "2nd"],
        ["x" * 200],
        ["x y" * 70],
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_suggested_map_option_renames_or_leaves_out_columns(
    tmp_path: Path, columns: Sequence[str], kind: str
) -> None:
    row = {"path": "a.jpg"} | dict.fromkeys(columns, "x")
    path = tmp_path / f"m.{kind}"
    if kind == "csv":
        path.write_text("\n".join(",".join(cells) for cells in (row.keys(), row.values())))
    elif kind == "jsonl":
        path.write_text(json.dumps(row))
    else:
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)
    for choice in (0, 1):
        taken: list[str] = []
        for _ in columns:
            code, reported = ingest(path, *taken)
            if code == 0:
                break
            assert "--map" in reported
            # The command breaks long words to fit its box.
            options = SourceOptions(columns=dict(text.rpartition("=")[::2] for text in taken[1::2]))
            with pytest.raises(SourceError) as refused:
                open_source(str(path), options)
            taken += options_in(str(refused.value))[choice]
        assert taken
        assert ingest(path, *taken)[0] == 0


@pytest.mark.usefixtures("photo")
def test_the_suggested_path_column_option_helps(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("where,sku\na.jpg,1\n")
    code, reported = ingest(path)
    assert (code, "--path-column names the one that holds a path or URL" in reported) == (2, True)
    assert ingest(path, "--path-column", "where")[0] == 0


@pytest.mark.usefixtures("photo")
def test_the_suggested_map_option_separates_columns_with_one_attribute_name(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path,a,b\na.jpg,1,2\n")
    code, reported = ingest(path, "--map", "a=b")
    assert code == 2
    (option,) = options_in(reported)
    assert ingest(path, "--map", "a=b", *option)[0] == 0


@pytest.mark.usefixtures("photo")
def test_the_suggested_map_option_leaves_out_a_column_with_a_long_cell(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"path,about it\na.jpg,{'x' * 200_000}\n")
    code, reported = ingest(path, "--map", "about it=about")
    assert code == 1
    (option,) = options_in(reported)
    assert ingest(path, *option)[0] == 0


@pytest.mark.usefixtures("photo")
def test_the_suggested_format_option_helps(tmp_path: Path) -> None:
    for kind, text in {"list": "a.jpg\n", "csv": "path\na.jpg\n", "jsonl": '{"path": "a.jpg"}\n'}.items():
        path = tmp_path / f"{kind}.data"
        path.write_text(text)
        code, reported = ingest(path)
        assert (code, "--format names the format of a file" in reported) == (2, True)
        assert ingest(path, "--format", kind)[0] == 0


COLLECTION = Collection("shoes", "", 2, "f", Metric.COSINE, Index.HNSW, "", {}, datetime(2024, 5, 1, tzinfo=UTC))


def test_the_suggested_ledger_option_helps(photo: Path, tmp_path: Path) -> None:
    odd, other = tmp_path / "odd.ledger", str(tmp_path / "other.ledger")
    odd.write_bytes(b"no database at all" * 100)
    code, reported = ingest(photo, "--ledger", str(odd))
    assert (code, "name another file by --ledger" in reported) == (3, True)
    assert ingest(photo, "--ledger", other)[0] == 0
    path = tmp_path / "old.ledger"
    with Ledger(path) as ledger:
        ledger.bind(CollectionIdentity.of(COLLECTION))
    rows = sqlite3.connect(path)
    rows.execute("UPDATE facts SET value = 'old' WHERE name = 'version'")
    rows.commit()
    rows.close()
    code, reported = ingest(photo, "--ledger", str(path))
    assert (code, "name a new file by --ledger" in reported) == (3, True)
    assert ingest(photo, "--ledger", other)[0] == 0


@pytest.mark.parametrize(
    "changed",
    [{"create_time": datetime(2025, 5, 1, tzinfo=UTC)}, {"name": "boots"}, {"fingerprint": "g"}],
)
def test_the_suggested_restart_option_clears_the_ledger_of_another_collection(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    path = tmp_path / "a.ledger"
    with Ledger(path) as ledger:
        ledger.bind(CollectionIdentity.of(COLLECTION))
    other = Collection(**{**vars(COLLECTION), **changed})
    with Ledger(path) as ledger, pytest.raises(LedgerError, match="--restart"):
        ledger.bind(CollectionIdentity.of(other))
    with Ledger(path) as ledger:
        ledger.bind(CollectionIdentity.of(other), restart=True)
    with Ledger(tmp_path / "new.ledger") as ledger:
        ledger.bind(CollectionIdentity.of(COLLECTION))


def test_the_suggested_retry_failed_option_retries_failed_images(photo: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ledger"
    with Ledger(path) as ledger:
        ledger.bind(CollectionIdentity.of(COLLECTION))
        source = ledger.source_number(str(photo))
        ledger.start_run()
        ledger.look_up([photo.name])
        (item,) = open_source(str(photo), SourceOptions())
        assert isinstance(item, Item)
        ledger.record([row_of_item(item, ItemState.FAILED, "IMAGE_CORRUPT", "odd")], source)
    code, reported = ingest(photo, "--ledger", str(path))
    assert (code, "--retry-failed tries them again" in reported) == (1, True)
    code, reported = ingest(photo, "--ledger", str(path), "--retry-failed")
    assert (code, "1 could be stored" in reported or "1 of 1 images could be stored" in reported) == (0, True)


def test_the_suggested_rejects_option_writes_all_rejects(tmp_path: Path) -> None:
    path, rejects = tmp_path / "list.txt", tmp_path / "rejects.jsonl"
    path.write_text("".join(f"{number}.jpg\n" for number in range(50)))
    code, reported = ingest(path)
    assert (code, "and 40 more; --rejects FILE writes all of them" in reported) == (1, True)
    assert ingest(path, "--rejects", str(rejects))[0] == 1
    assert len(rejects.read_text().splitlines()) == 50


def vectors(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table({"v": [[1.0, 2.0]], "key": ["a"], "link": ["u"], **columns}), path)
    return path


def refused(path: Path, options: VectorOptions) -> str:
    with pytest.raises(SourceError) as caught:
        VectorFileSource(path, options)
    return str(caught.value)


def test_the_suggested_column_options_of_an_import_help(tmp_path: Path) -> None:
    path = vectors(tmp_path / "a.parquet")
    assert "use --vector-column to name it" in refused(path, VectorOptions("f"))
    assert "use --id-column to name it" in refused(path, VectorOptions("f", vector="v"))
    assert "use --fingerprint to name it" in refused(path, VectorOptions("", vector="v", id="key"))
    (item,) = VectorFileSource(path, VectorOptions("f", vector="v", id="key", uri="link"))
    assert isinstance(item, Item)
    assert (item.id, item.uri) == ("a", "u")
    h5 = tmp_path / "a.npz"
    np.savez(h5, x=np.ones((1, 2), np.float32), y=np.array(["a"]))
    assert "--vector-column" in refused(h5, VectorOptions("f"))
    assert len(list(VectorFileSource(h5, VectorOptions("f", vector="x", id="y")))) == 1


def test_the_suggested_map_option_of_an_import_helps(tmp_path: Path) -> None:
    path = vectors(tmp_path / "a.parquet", **{"Product Name": ["x"], "product_name": ["y"], "it's": [1]})
    reported: dict[int, dict[str, str]] = {0: {}, 1: {}}
    for choice, columns in reported.items():
        while True:
            options = VectorOptions("f", vector="v", id="key", columns=columns)
            try:
                (item,) = VectorFileSource(path, options)
                break
            except SourceError as error:
                (_, text) = options_in(str(error))[choice]
                columns |= dict([text.rpartition("=")[::2]])
        assert isinstance(item, Item)
    assert reported == {0: {"Product Name": "product_name_2", "it's": "it_s"}, 1: {"Product Name": "", "it's": ""}}
    message = refused(path, VectorOptions("f", vector="v", id="key", columns={"Product Name": "", "it's": "link"}))
    ((_, text),) = options_in(message)
    renamed = {"Product Name": "", "it's": "link"} | dict([text.rpartition("=")[::2]])
    assert len(list(VectorFileSource(path, VectorOptions("f", vector="v", id="key", columns=renamed)))) == 1


def test_a_report_without_remarks_has_an_empty_list() -> None:
    assert LoadReport().as_json()["remarks"] == []
