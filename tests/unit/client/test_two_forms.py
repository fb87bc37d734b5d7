"""The blocking clients have every method of the asynchronous ones, with the same arguments."""

import inspect

import pytest

from codegen import blocking_client
from imagesearch_client import AsyncClient, AsyncEmbedderClient, Client, EmbedderClient


def methods(kind: type) -> dict[str, list[str]]:
    found = inspect.getmembers(kind, inspect.isroutine)
    return {name: list(inspect.signature(method).parameters) for name, method in found if not name.startswith("_")}


@pytest.mark.parametrize(("blocking", "asynchronous"), [(Client, AsyncClient), (EmbedderClient, AsyncEmbedderClient)])
def test_both_forms_have_the_same_methods(blocking: type, asynchronous: type) -> None:
    assert methods(blocking) == methods(asynchronous)
    assert len(methods(blocking)) > 6


def test_the_generated_code_is_up_to_date() -> None:
    for path, text in blocking_client.generated().items():
        assert path.read_text() == text
        assert "async" not in text.replace("asynchronous", "")
        assert "await" not in text
