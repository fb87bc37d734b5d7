"""The reference lists every reason of an error and every public name of the Python client."""

import pkgutil
import re
from pathlib import Path

import imagesearch_client

ROOT = Path(__file__).parents[3]


def test_every_reason_of_the_code_is_documented() -> None:
    raised = re.compile(r'(?:Error|_mismatch|_refused)\(\s*"([A-Z][A-Z0-9_]+)"')
    chosen = re.compile(r'"([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)" if ')
    reasons: set[str] = set()
    packages = ("embedder_service", "search_service", "grpc_kit/server/interceptors")
    sources = [source for package in packages for source in (ROOT / package).rglob("*.py")]
    for source in [*sources, ROOT / "grpc_kit/errors.py"]:
        text = source.read_text()
        reasons |= {*raised.findall(text), *chosen.findall(text)}
    assert len(reasons) > 30
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    assert {reason for reason in reasons if f"`{reason}`" not in page} == set()


def test_the_python_reference_lists_every_public_class_and_function_once() -> None:
    page = (ROOT / "docs/reference/python-api.md").read_text()
    listed = re.findall(r"^::: imagesearch_client\.(\w+)$", page, re.MULTILINE)
    public = [name for name in imagesearch_client.__all__ if not name.isupper()]
    assert sorted(listed) == sorted(public)


def test_every_object_of_the_python_reference_exists() -> None:
    page = (ROOT / "docs/reference/python-api.md").read_text()
    names = re.findall(r"^::: (imagesearch_(?!client)[\w.]+)$", page, re.MULTILINE)
    assert names
    for name in names:
        pkgutil.resolve_name(name)
