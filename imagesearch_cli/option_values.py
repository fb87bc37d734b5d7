"""Read the values of options into the types of the SDK. A wrong value ends the command with a usage error."""

from collections.abc import Sequence
from contextlib import suppress

import typer

from imagesearch_client.filters import Filter, all_of, parse, read_value, split_values, unquoted
from imagesearch_client.types import AttributeValue, HnswParameters, IndexParameters, IvfParameters, Region


def parse_where(where: Sequence[str] | None) -> Filter | None:
    """Return the filter of the --where options, or None without any."""
    try:
        conditions = [parse(text) for text in where or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--where") from None
    return all_of(*conditions) if conditions else None


def parse_region(text: str, option: str = "--region") -> Region | None:
    """Return the region of an option, or None without it."""
    if not text:
        return None
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a region; it must be X0,Y0,X1,Y1, such as 0,0,0.5,1", param_hint=option
        ) from None
    return Region(x0, y0, x1, y1)


def parse_attribute(text: str) -> AttributeValue:
    """Return an attribute's value: a value as in --where, or a list of texts such as [a,"b, c"].

    Raises ValueError.
    """
    if text.startswith("[") and text.endswith("]"):
        return [unquoted(part) for part in split_values(text[1:-1]) if part.strip()]
    return read_value(text)


def parse_index_parameters(m: int | None, ef_construction: int | None, nlist: int | None) -> IndexParameters | None:
    """Return the index parameters of the options, or None without any."""
    if nlist is not None and (m is not None or ef_construction is not None):
        raise typer.BadParameter("--nlist is for IVF indexes, --m and --ef-construction are for HNSW")
    if nlist is not None:
        return IvfParameters(nlist)
    if m is None and ef_construction is None:
        return None
    default = HnswParameters()
    return HnswParameters(
        default.m if m is None else m, default.ef_construction if ef_construction is None else ef_construction
    )


def parse_pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """Return the values of an option COLUMN=VALUE by column."""
    found: dict[str, str] = {}
    for text in texts or ():
        column, equals_sign, value = text.rpartition("=")
        if not equals_sign or not column:
            raise typer.BadParameter(f"{text!r} must be COLUMN=VALUE", param_hint=option)
        if column in found:
            raise typer.BadParameter(f"column {column!r} is named twice; name it once", param_hint=option)
        found[column] = value
    return found


def parse_share(text: str, option: str) -> float:
    """Return a share from 0 to 1, written as 50% or 0.5."""
    is_percent = text.endswith("%")
    with suppress(ValueError):
        number = float(text.removesuffix("%")) / (100 if is_percent else 1)
        if 0 <= number <= 1:
            return number
    raise typer.BadParameter(f"{text!r} must be a share from 0 to 1, such as 50% or 0.5", param_hint=option)


def parse_max_failed(text: str) -> tuple[float, bool]:
    """Return the number of --max-failed, and whether it is a percentage of all images."""
    with suppress(ValueError):
        number = float(text.removesuffix("%"))
        if number >= 0:
            return number, text.endswith("%")
    raise typer.BadParameter(
        f"{text!r} must be a number of images, such as 10, or a share, such as 1%", param_hint="--max-failed"
    )


def check_attribute_name(name: str, option: str) -> None:
    """Check that an option, if it is given, names an attribute."""
    from imagesearch_ingest.sources.attribute_values import ATTRIBUTE_NAME  # noqa: PLC0415 - it takes a while to import

    if name and not ATTRIBUTE_NAME.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} is not an attribute name; it must be a letter, then letters, digits or underscores",
            param_hint=option,
        )
