"""`imagesearch images`."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Annotated

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.console import FAILED, confirm, note, show
from imagesearch_cli.option_values import parse_attribute, parse_where
from imagesearch_cli.options import DEFAULT_COLLECTION, AsJson, CollectionName, Target, Where, Yes, limit_option
from imagesearch_cli.progress import show_progress
from imagesearch_cli.records import image_json, print_record, shown_attributes
from imagesearch_cli.typer_app import App
from imagesearch_client import DEFAULT_TARGET, Client
from imagesearch_client.types import AttributeValue
from imagesearch_ingest.json_text import json_text

STANDARD_INPUT = "-"
MAX_PAGE = 1000
IDS_HELP = (
    "Ids of images. - reads ids from standard input, one a line. Write -- before an id that begins with a hyphen."
)
Ids = Annotated[list[str], typer.Argument(metavar="ID", help=IDS_HELP)]
OptionalIds = Annotated[list[str] | None, typer.Argument(metavar="ID", help=IDS_HELP)]

images_app = App(help="List, get, update and delete stored images.", no_args_is_help=True)


def read_ids(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the ids of the arguments. "-" stands for the lines of standard input, without empty ones."""
    for argument in arguments:
        if argument != STANDARD_INPUT:
            yield argument
            continue
        for number, line in enumerate(sys.stdin.buffer, start=1):
            try:
                image_id = line.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError:
                raise typer.BadParameter(f"line {number} of standard input is not UTF-8", param_hint="ID") from None
            if image_id:
                yield image_id


@images_app.command("list")
def list_images(
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    where: Where = None,
    latest_first: Annotated[
        bool, typer.Option("--latest-first", help="Sort by the time of the last change, latest first, not by id.")
    ] = False,
    limit: Annotated[int, limit_option("Maximum number of images.")] = 100,
    everything: Annotated[bool, typer.Option("--all", help="List all images; ignores --limit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each image.")] = False,
) -> None:
    """List images with their attributes."""
    condition = parse_where(where)
    with connected(target) as client:
        # At most one page more than is shown is read.
        found = client.list(collection, where=condition, latest_first=latest_first, page_size=min(limit, MAX_PAGE))
        for image in found if everything else islice(found, limit):
            if as_json:
                print(json_text(image_json(image)))
            else:
                show(f"{image.id}  {shown_attributes(image.attributes)}")


@images_app.command("get")
def get_images(
    ids: Ids,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    include_vector: Annotated[bool, typer.Option("--include-vector", help="Show the vectors too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each image.")] = False,
) -> None:
    """Show images, in the order of the ids. The exit code is 1 if an image does not exist."""
    missing = 0
    with connected(target) as client:
        for image_id, image in client.get_each(collection, read_ids(ids), with_regions=include_vector):
            if image is None:
                missing += 1
                _note_missing(collection, image_id)
            else:
                print_record(image_json(image), as_json=as_json)
    if missing:
        raise typer.Exit(FAILED)


def _count_missing(client: Client, collection: str, wanted: Sequence[str]) -> int:
    """Return how many of the ids do not exist, and name each of them."""
    missing = [image_id for image_id, image in client.get_each(collection, wanted) if image is None]
    for image_id in missing:
        _note_missing(collection, image_id)
    return len(missing)


def _note_missing(collection: str, image_id: str) -> None:
    note(f"{collection} has no image {image_id}")


@images_app.command("update")
def update_image(
    image_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the image.")],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=VALUE",
            help="NAME=VALUE sets an attribute, NAME= removes it. A value is a number, true, false, a text, or a list "
            'of texts such as \\[a,"b, c"]. Put a text that looks like a number in double quotes.',
        ),
    ] = None,
    uri: Annotated[str | None, typer.Option(metavar="URI", help="New location of the image's file.")] = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Change an image's attributes or uri. Its vector and its other attributes stay.

    Example: imagesearch images update coffee.jpg kind=drink price=3.5
    """
    if not assignments and uri is None:
        raise typer.BadParameter("there is nothing to change; give NAME=VALUE or --uri")
    changed, removed = _parse_assignments(assignments or ())
    with connected(target) as client:
        try:
            image = client.update(collection, image_id, uri=uri, attributes=changed, remove=removed)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    print_record(image_json(image), as_json=as_json)


def _parse_assignments(assignments: Sequence[str]) -> tuple[dict[str, AttributeValue], list[str]]:
    """Return the attributes to set, and the names of the attributes to remove."""
    changed: dict[str, AttributeValue] = {}
    removed: list[str] = []
    for assignment in assignments:
        name, equals_sign, value = assignment.partition("=")
        if not equals_sign:
            raise typer.BadParameter(f"{assignment!r} must be NAME=VALUE or NAME=")
        if name in changed or name in removed:
            raise typer.BadParameter(f"attribute {name} is named twice; name it once")
        if value:
            try:
                changed[name] = parse_attribute(value)
            except ValueError as error:
                raise typer.BadParameter(f"{name}: {error}") from None
        else:
            removed.append(name)
    return changed, removed


@images_app.command("delete")
def delete_images(
    ids: OptionalIds = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    where: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the images; delete nothing.")] = False,
    yes: Yes = False,
) -> None:
    """Delete images by their ids or by --where. If the command is interrupted, run it again.

    The exit code is 1 if one of the ids does not exist.

    Example: imagesearch images delete --where 'season=2023' --dry-run

    Example: imagesearch images delete - --yes < ids.txt
    """
    condition = parse_where(where)
    if bool(ids) is (condition is not None):
        raise typer.BadParameter("give either ids or --where")
    if STANDARD_INPUT in (ids or ()) and not (yes or dry_run):
        raise typer.BadParameter("standard input holds the ids, so nobody can confirm there; add --yes or --dry-run")
    wanted = list(read_ids(ids or ()))
    with connected(target) as client:
        missing = _count_missing(client, collection, wanted)
        if condition is None:
            count = len(set(wanted)) - missing
        else:
            count = client.delete_where(collection, condition, dry_run=True)
        if dry_run:
            show(f"would delete {count} images of {collection}")
        else:
            if count and not yes:
                confirm(f"Delete {count} images of {collection}?")
            with _reported(collection, count) as report:
                if condition is not None:
                    client.delete_where(collection, condition, on_progress=report)
                elif count:
                    client.delete(collection, wanted, on_progress=report)
    if missing:
        raise typer.Exit(FAILED)


@contextmanager
def _reported(collection: str, count: int) -> Iterator[Callable[[int], None]]:
    """Print how many images were deleted, also after an error or an interrupt."""
    deleted = 0

    def report(number: int) -> None:
        nonlocal deleted
        deleted = number
        bar.reach(number)

    try:
        with show_progress(count) as bar:
            yield report
    except BaseException:
        note(f"deleted at least {deleted} of {count} images of {collection}; run the command again to delete the rest")
        raise
    show(f"deleted {deleted} images of {collection}")
