"""`imagesearch images`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Annotated

import typer

from imagesearch_cli.bars import show_progress
from imagesearch_cli.connection import connected
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    CollectionName,
    Target,
    Where,
    condition_of,
    read_attribute,
)
from imagesearch_cli.output import confirm, err, image_json, out, shown_attribute
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import AttributeValue
from imagesearch_ingest.json_text import json_text

STANDARD_INPUT = "-"
IDS_HELP = (
    "The ids, any number of them. - reads them from standard input, a line for each; -- comes before one like -a."
)
Ids = Annotated[list[str], typer.Argument(help=IDS_HELP)]
OptionalIds = Annotated[list[str] | None, typer.Argument(help=IDS_HELP)]

images_app = typer.Typer(help="List, show, change and remove images.", no_args_is_help=True)


def ids_of(arguments: Sequence[str]) -> Iterator[str]:
    """The ids that arguments name, as they are asked for; "-" is the lines of standard input, without empty ones."""
    for argument in arguments:
        if argument != STANDARD_INPUT:
            yield argument
            continue
        for number, line in enumerate(sys.stdin.buffer, start=1):
            try:
                image_id = line.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError:
                raise typer.BadParameter(f"line {number} of standard input is not UTF-8", param_hint="IDS") from None
            if image_id:
                yield image_id


@images_app.command("list")
def list_images(
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    where: Where = None,
    latest_first: Annotated[bool, typer.Option(help="The most recently changed first, not by id.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, help="The most images. --all lifts it.")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each image.")] = False,
) -> None:
    """List the images of a collection."""
    condition = condition_of(where)
    with connected(target) as client:
        # At most one page more than is shown is read.
        found = client.list(collection, where=condition, latest_first=latest_first, page_size=min(limit, 1000))
        for image in found if everything else islice(found, limit):
            if as_json:
                print(json_text(image_json(image)))
            else:
                attributes = " ".join(
                    f"{name}={shown_attribute(value)}" for name, value in sorted(image.attributes.items())
                )
                out.print(f"{image.id}  {attributes}", markup=False, highlight=False, soft_wrap=True)


@images_app.command("get")
def get_images(
    ids: Ids,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    vector: Annotated[bool, typer.Option("--vector", help="With their vectors.")] = False,
) -> None:
    """Show images as JSON, a line for each, in the order of the ids. Exit code 1 if one does not exist."""
    missing = 0
    with connected(target) as client:
        for image_id, image in client.get_each(collection, ids_of(ids), with_vector=vector):
            if image is None:
                missing += 1
                _tell_missing(collection, image_id)
            else:
                print(json_text(image_json(image)))
    if missing:
        raise typer.Exit(1)


def _missing(client: Client, collection: str, wanted: Sequence[str]) -> int:
    """How many of the ids do not exist; names each."""
    missing = [image_id for image_id, image in client.get_each(collection, wanted) if image is None]
    for image_id in missing:
        _tell_missing(collection, image_id)
    return len(missing)


def _tell_missing(collection: str, image_id: str) -> None:
    err.print(f"{collection} has no image {image_id}", markup=False, highlight=False, soft_wrap=True)


@images_app.command("set")
def set_attributes(
    image_id: Annotated[str, typer.Argument(help="The image.")],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            help="NAME=VALUE sets an attribute, NAME= removes it. A value is a number, true, false, a text, a list of "
            'texts as \\[a,"b, c"], and "a text" where it is quoted.'
        ),
    ] = None,
    uri: Annotated[str | None, typer.Option(help="Where the image's file is from now on.")] = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Change attributes of an image, or its uri; its vector stays."""
    if not assignments and uri is None:
        raise typer.BadParameter("there is nothing to change: name attributes as NAME=VALUE, or --uri")
    changed: dict[str, AttributeValue] = {}
    removed = []
    for assignment in assignments or ():
        name, equals_sign, value = assignment.partition("=")
        if not equals_sign:
            raise typer.BadParameter(f"{assignment!r} should be NAME=VALUE or NAME=")
        if name in changed or name in removed:
            raise typer.BadParameter(f"{name} is there twice")
        if value:
            try:
                changed[name] = read_attribute(value)
            except ValueError as error:
                raise typer.BadParameter(f"{name}: {error}") from None
        else:
            removed.append(name)
    with connected(target) as client:
        try:
            image = client.update(collection, image_id, uri=uri, attributes=changed, remove=removed)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    print(json_text(image_json(image)))


@images_app.command("delete")
def delete_images(
    ids: OptionalIds = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    where: Where = None,
    dry_run: Annotated[bool, typer.Option(help="Count what would be removed, and remove nothing.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask. Needed if the ids come by standard input.")
    ] = False,
) -> None:
    """Remove images by their ids, or those that fit. If it is interrupted, run the same command again.

    Exit codes: 0 done, 1 one of the ids does not exist or the service refused, 2 wrong usage.

    Example: imagesearch images delete --where 'season=2023' --dry-run

    Example: imagesearch images delete - --yes < ids.txt
    """
    condition = condition_of(where)
    if bool(ids) is (condition is not None):
        raise typer.BadParameter("either ids or --where should say what is removed")
    if STANDARD_INPUT in (ids or ()) and not (yes or dry_run):
        raise typer.BadParameter(
            "the ids come by standard input, so that nobody can answer there: add --yes or --dry-run"
        )
    wanted = list(ids_of(ids or ()))
    with connected(target) as client:
        missing = _missing(client, collection, wanted)
        if condition is None:
            count = len(set(wanted)) - missing
        else:
            count = client.delete_where(collection, condition, dry_run=True)
        if dry_run:
            out.print(f"would remove {count} images of {collection}")
        else:
            if count and not yes:
                confirm(f"Remove {count} images of {collection}?")
            with _deleting(collection, count) as tell:
                if condition is not None:
                    client.delete_where(collection, condition, on_progress=tell)
                elif count:
                    client.delete(collection, wanted, on_progress=tell)
    if missing:
        raise typer.Exit(1)


@contextmanager
def _deleting(collection: str, count: int) -> Iterator[Callable[[int], None]]:
    """Says how many images were removed, also if an error or an interrupt ends it."""
    removed = 0

    def tell(number: int) -> None:
        nonlocal removed
        removed = number
        bar.reach(number)

    try:
        with show_progress(err) as bar:
            bar.start(count)
            yield tell
    except BaseException:
        err.print(
            f"removed at least {removed} of {count} images of {collection}; the same command again removes the rest",
            soft_wrap=True,
        )
        raise
    out.print(f"removed {removed} images of {collection}")
