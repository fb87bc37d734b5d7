"""What values can be attributes, and what names they can have."""

import itertools
import json
import math
import re
import shlex
from collections.abc import Collection, Mapping
from typing import cast

from imagesearch_client.types import AttributeValue
from imagesearch_ingest.sources.local_files import is_utf8

ATTRIBUTE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")
MAX_INTEGER = 2**63
# Beyond it not every whole number is a float.
MAX_EXACT = 2**53


def is_integer(text: str) -> bool:
    """Whether it is a whole number of 64 bits, written as numbers are."""
    return WHOLE_NUMBER.fullmatch(text) is not None and -MAX_INTEGER <= int(text) < MAX_INTEGER


def check_value(value: object) -> AttributeValue:
    """The value as an attribute's. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -MAX_INTEGER <= value < MAX_INTEGER:
            raise ValueError("the number has more than 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no number")
        return value
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return [check_text(part) for part in value]
    raise ValueError(f"a {_kind(value)} is no attribute; texts, numbers, true, false and lists of texts are")


def check_text(text: str) -> str:
    """The text, where it can be sent. Raises ValueError."""
    if not is_utf8(text):
        raise ValueError("the text is not UTF-8")
    return text


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "list of other than texts"
    return "JSON object" if isinstance(value, dict) else type(value).__name__


def attributes_from(fields: Mapping[str, object], names: Mapping[str, str]) -> dict[str, AttributeValue]:
    """The attributes that a JSON object says, under the names that `names` gives some of them. Raises ValueError."""
    attributes: dict[str, AttributeValue] = {}
    for field, value in fields.items():
        if not (name := attribute_name(field, names, fields)):
            continue
        if name in attributes:
            raise ValueError(f"two fields are the attribute {name}")
        if not is_missing(value):
            try:
                attributes[name] = check_value(value)
            except ValueError as error:
                raise ValueError(f"{field}: {error}") from None
    return attributes


def is_missing(value: object) -> bool:
    """Whether a value says that there is none: null, or NaN, which pandas and others write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def attribute_name(column: str, names: Mapping[str, str], taken: Collection[str] = ()) -> str:
    """What a column or field is called as an attribute; empty where it is none. Raises ValueError.

    The error suggests another name, which is none of those that are `taken`.
    """
    # Our own remarks in a file of rejects are no attributes.
    name = names.get(column, "" if column.startswith("_") else column)
    if name and not ATTRIBUTE_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r:.140} is no name of an attribute (a letter, then at most 127 letters, digits or underscores); "
            f"{suggest_option('--map', column, suggest_name(column, {*taken, *names.values()}))} gives it another, "
            f"{suggest_option('--map', column)} leaves it out"
        )
    return name


def suggest_name(column: str, taken: Collection[str]) -> str:
    """A name that an attribute can have and none of those taken, which is like the column's."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", column).strip("_").lower()[:100] or "attribute"
    name = name if name[0].isalpha() else f"a_{name}"
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name not in taken else next(each for each in numbered if each not in taken)


def suggest_option(option: str, column: str, value: str = "") -> str:
    """An option about a column, as it is written in a shell."""
    text = f"{column}={value}"
    # Quotes are needed for most names, so that all have them.
    return f"{option} {shlex.quote(text)}" if "'" in text else f"{option} '{text}'"


def json_object(line: bytes) -> dict[str, object]:
    """The JSON object of a line. Raises ValueError."""
    try:
        found = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg} (at its character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is no JSON object, but a {type(found).__name__}")  # noqa: TRY004 - as above
    return cast(dict[str, object], found)
