"""Check the names and the values of attributes."""

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
# Larger whole numbers are not exact as floats.
MAX_EXACT = 2**53


def is_integer(text: str) -> bool:
    """Return whether a text is a 64-bit integer in its usual spelling."""
    return WHOLE_NUMBER.fullmatch(text) is not None and -MAX_INTEGER <= int(text) < MAX_INTEGER


def check_value(value: object) -> AttributeValue:
    """Return the value as an attribute value. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -MAX_INTEGER <= value < MAX_INTEGER:
            raise ValueError("the number has more than 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return value
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return [check_text(part) for part in value]
    raise ValueError(f"a {_kind(value)} cannot be an attribute; use texts, numbers, true, false or lists of texts")


def check_text(text: str) -> str:
    """Return the text if it can be sent. Raises ValueError."""
    if not is_utf8(text):
        raise ValueError("the text is not UTF-8")
    return text


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "list of values other than texts"
    return "JSON object" if isinstance(value, dict) else type(value).__name__


def attributes_from(fields: Mapping[str, object], names: Mapping[str, str]) -> dict[str, AttributeValue]:
    """Return the attributes in a JSON object, renamed by `names`. Raises ValueError."""
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
    """Return whether a value is missing: null, or NaN, which pandas and other programs write for null."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def attribute_name(column: str, names: Mapping[str, str], taken: Collection[str] = ()) -> str:
    """Return the attribute name of a column or field; an empty string if it is left out.

    Raises ValueError, whose message suggests a name that is not in `taken`.
    """
    # Fields of rejects that begin with "_" are remarks.
    name = names.get(column, "" if column.startswith("_") else column)
    if name and not ATTRIBUTE_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r:.140} cannot be an attribute's name (a letter, then at most 127 letters, digits or underscores); "
            f"{suggest_option('--map', column, suggest_name(column, {*taken, *names.values()}))} renames it, "
            f"{suggest_option('--map', column)} leaves it out"
        )
    return name


def suggest_name(column: str, taken: Collection[str]) -> str:
    """Return a valid attribute name that resembles a column's name and is not in `taken`."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", column).strip("_").lower()[:100] or "attribute"
    name = name if name[0].isalpha() else f"a_{name}"
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name not in taken else next(each for each in numbered if each not in taken)


def suggest_option(option: str, column: str, value: str = "") -> str:
    """Return an option for a column, quoted for a shell."""
    text = f"{column}={value}"
    # Most names need quotes, so all get them.
    return f"{option} {shlex.quote(text)}" if "'" in text else f"{option} '{text}'"


def json_object(line: bytes) -> dict[str, object]:
    """Return the JSON object of a line. Raises ValueError."""
    try:
        found = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} (at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is a {type(found).__name__}, not a JSON object")  # noqa: TRY004 - as above
    return cast(dict[str, object], found)
