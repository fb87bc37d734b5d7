"""The client rejects wrong arguments before it calls the service."""

from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from imagesearch_cli.app import app
from imagesearch_cli.option_values import parse_attribute
from imagesearch_cli.records import shown_attribute
from imagesearch_client import (
    Client,
    Embedding,
    Examples,
    ImageFile,
    InvalidArgumentError,
    StoredImage,
    all_of,
    any_of,
    equals,
    is_in,
    negated,
)
from imagesearch_client.to_messages import attribute_to, attributes_to, search_request


@pytest.mark.parametrize(
    "options", [["--metric", "COSINE"], ["--metric", "l2", "--index", "HNSW", "--consistency", "Strong"]]
)
def test_metrics_and_indexes_ignore_case(options: list[str]) -> None:
    result = CliRunner().invoke(app, ["collections", "create", "shop", "--target", "127.0.0.1:1", *options])
    # Nobody listens there: it was sent.
    assert (result.exit_code, "UNAVAILABLE" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    "command",
    [
        ["images", "get", "\udcff"],
        ["images", "list", "-c", "\udcff"],
        ["images", "update", "a", "name=\udcff"],
        ["images", "delete", "--yes", "\udcff"],
        ["search", "--id", "\udcff"],
        ["collections", "create", "\udcff"],
    ],
)
def test_an_argument_that_is_not_utf_8_is_rejected_by_name(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--target", "127.0.0.1:1"], env={"COLUMNS": "200"})
    assert (result.exit_code, "\\udcff" in result.stderr) == (2, True)


@pytest.fixture
def client() -> Client:
    # Nobody listens there: what is sent fails in another way.
    return Client("127.0.0.1:1", timeout=0.1)


@pytest.mark.parametrize("options", [{"filter": None}, {"k": 3}, {"page_size": 7}, {"limit": 3, "minscore": 1}])
def test_search_rejects_an_unknown_option(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"unknown search options: .*; the options are limit, .*where"):
        search_request("c", StoredImage("a"), options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 2}, "group_by"),
        ({"where": "price<5"}, "where must be a filter, such as .*, and no str"),
        ({"where": [equals("a", 1)]}, "and no list"),
    ],
)
def test_search_rejects_an_option_without_effect(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        search_request("c", StoredImage("a"), options)  # type: ignore[arg-type]


def test_zero_is_rejected_and_does_not_mean_the_default(client: Client) -> None:
    with client:
        calls: dict[str, Callable[[], object]] = {
            "LIMIT_INVALID": lambda: client.search("c", StoredImage("a"), limit=0),
            "GROUP_BY_INVALID": lambda: client.search("c", StoredImage("a"), group_by="kind", group_size=0),
            "PAGE_SIZE_INVALID": lambda: client.list("c", page_size=0),
        }
        for reason, call in calls.items():
            with pytest.raises(InvalidArgumentError, match="is 0; it must be between 1 and") as caught:
                call()
            assert caught.value.reason == reason


def test_search_all_rejects_groups(client: Client) -> None:
    with client, pytest.raises(TypeError, match="hits in groups have one page"):
        client.search_all("c", StoredImage("a"), group_by="kind")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: is_in("n", [1, 2]),  # type: ignore[arg-type]
        lambda: equals("tags", ["shelf"]),  # type: ignore[arg-type]
        lambda: any_of([equals("a", 1)]),  # type: ignore[arg-type]
        lambda: all_of("a=1"),  # type: ignore[arg-type]
        lambda: negated("a=1"),  # type: ignore[arg-type]
        lambda: search_request("c", ImageFile(b"x", (0, 0, 0.5, 0.5)), {}),  # type: ignore[arg-type]
        lambda: search_request("c", Examples(StoredImage("a")), {}),  # type: ignore[arg-type]
    ],
)
def test_wrong_types_are_rejected_with_the_allowed_ones(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"and no (list|str|tuple|StoredImage)"):
        wrong()


def test_a_number_above_64_bits_is_rejected_with_the_name_of_its_attribute(client: Client) -> None:
    with pytest.raises(ValueError, match="attribute 'n': 9223372036854775808 has more than 64 bits"):
        attributes_to({"n": 2**63})
    assert attribute_to(2**63 - 1).integer_value == 2**63 - 1
    with client, pytest.raises(ValueError, match="both to set and to remove: q"):
        client.update("c", "a", attributes={"q": 1}, remove=["q"])


@pytest.mark.parametrize("query", ["a", b"bytes", [1.0, 2.0], None, Examples(["a"])])  # type: ignore[list-item]
def test_a_query_of_the_wrong_type_is_rejected_with_the_allowed_types(query: Any) -> None:
    with pytest.raises(TypeError, match="ImageFile, a StoredImage"):
        search_request("c", query, {})


@pytest.mark.parametrize(
    "query", [StoredImage("a"), ImageFile(b"x"), Embedding([1], "f"), Examples([StoredImage("a")])]
)
def test_every_type_of_query_is_accepted(query: Any) -> None:
    assert search_request("c", query, {"limit": 3}).limit == 3


@pytest.mark.parametrize("value", [None, {"a": 1}, [1, 2], ["a", None], object(), b"x"])
def test_an_attribute_of_the_wrong_type_is_rejected_with_the_allowed_types(value: Any) -> None:
    with pytest.raises(TypeError, match="is not a string, a number, True, False or a list of strings"):
        attribute_to(value)


def test_a_single_id_instead_of_a_list_is_rejected(client: Client) -> None:
    with client:
        for call in (client.get_many, client.delete):
            with pytest.raises(TypeError, match=r"such as \['coffee.png'\]"):
                call("c", "coffee.png")


@pytest.mark.parametrize(
    "text",
    [
        "red",
        "7",
        "7.5",
        "true",
        '"7"',
        '"true"',
        "[a,b]",
        '"[a]"',
        "[]",
        "red shoe",
        '"=5"',
        '["a,b",c]',
        "['say \"a\"',b]",
        '["", " a "]',
        "[41,true]",
        "9007199254740993.0",
        '"0.99999999999999999999"',
        '"1e999"',
    ],
)
def test_attributes_are_printed_as_update_reads_them(text: str) -> None:
    value = parse_attribute(text)
    assert parse_attribute(shown_attribute(value)) == value
    assert type(parse_attribute(shown_attribute(value))) is type(value)


def test_quoted_commas_do_not_separate_values() -> None:
    assert parse_attribute('["a,b", c , \'d, "e"\']') == ["a,b", "c", 'd, "e"']
