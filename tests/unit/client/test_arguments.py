"""What a caller gets wrong in Python is said in Python, before anything is sent."""

from typing import Any

import pytest

from imagesearch_client import Client, Embedding, Examples, ImageFile, StoredImage
from imagesearch_client.cli import read_attribute, shown_attribute
from imagesearch_client.converters import attribute_to, search_request


@pytest.fixture
def client() -> Client:
    # Nobody listens there: what is sent fails in another way.
    return Client("127.0.0.1:1", timeout=0.1)


@pytest.mark.parametrize("options", [{"filter": None}, {"k": 3}, {"page_size": 7}, {"limit": 3, "minscore": 1}])
def test_an_option_that_there_is_not_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"is no option of a search; limit, .*where.* are"):
        search_request("c", StoredImage("a"), options)  # type: ignore[arg-type]


@pytest.mark.parametrize("query", ["a", b"bytes", [1.0, 2.0], None, Examples(["a"])])  # type: ignore[list-item]
def test_a_query_of_another_kind_is_told_what_would_be_one(query: Any) -> None:
    with pytest.raises(TypeError, match="ImageFile, a StoredImage"):
        search_request("c", query, {})


@pytest.mark.parametrize(
    "query", [StoredImage("a"), ImageFile(b"x"), Embedding([1], "f"), Examples([StoredImage("a")])]
)
def test_the_kinds_of_queries_are_taken(query: Any) -> None:
    assert search_request("c", query, {"limit": 3}).limit == 3


@pytest.mark.parametrize("value", [None, {"a": 1}, [1, 2], ["a", None], object(), b"x"])
def test_an_attribute_of_another_kind_is_told_what_would_be_one(value: Any) -> None:
    with pytest.raises(TypeError, match="a list of texts, and not"):
        attribute_to(value)


def test_a_single_id_is_no_list_of_ids(client: Client) -> None:
    with client:
        for call in (client.get_many, client.delete):
            with pytest.raises(TypeError, match=r"such as \['coffee.png'\]"):
                call("c", "coffee.png")


@pytest.mark.parametrize(
    "text", ["red", "7", "7.5", "true", '"7"', '"true"', "[a,b]", '"[a]"', "[]", "red shoe", '"=5"']
)
def test_attributes_are_shown_as_they_are_set(text: str) -> None:
    value = read_attribute(text)
    assert read_attribute(shown_attribute(value)) == value
    assert type(read_attribute(shown_attribute(value))) is type(value)
