"""Ids of images: checked, each once, in parts that fit into one call."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from imagesearch_client.defaults import MAX_IDS

Ids = TypeVar("Ids", bound=Iterable[str])


def check_several(ids: Ids) -> Ids:
    """Return the ids. Raises TypeError for a string, whose characters would count as ids."""
    if isinstance(ids, str):
        raise TypeError(f"ids must be a list, such as [{ids!r:.60}]")
    return ids


def in_parts(ids: Iterable[str]) -> Iterator[Sequence[str]]:
    """Return the distinct ids in parts of 1,000, read as they are needed. Raises TypeError for a string."""
    distinct = _distinct(check_several(ids))
    return iter(lambda: list(islice(distinct, MAX_IDS)), [])


def _distinct(ids: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for image_id in ids:
        if image_id not in seen:
            seen.add(image_id)
            yield image_id
