"""`imagesearch images`."""

from itertools import islice
from typing import Annotated

import typer

from imagesearch_client.cli.connection import connected
from imagesearch_client.cli.options import (
    DEFAULT_COLLECTION,
    CollectionName,
    Target,
    Where,
    condition_of,
    read_attribute,
)
from imagesearch_client.cli.output import err, image_json, out, shown_attribute
from imagesearch_client.client import DEFAULT_TARGET
from imagesearch_client.json_text import json_text
from imagesearch_client.types import AttributeValue

images_app = typer.Typer(help="List, show, change and remove images.", no_args_is_help=True)


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
    ids: Annotated[list[str], typer.Argument(help="The ids.")],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    vector: Annotated[bool, typer.Option("--vector", help="With their vectors.")] = False,
) -> None:
    """Show images as JSON, a line for each. Exit code 1 where one does not exist."""
    with connected(target) as client:
        found = client.get_many(collection, ids, with_vector=vector)
    for image in found.values():
        print(json_text(image_json(image)))
    missing = [image_id for image_id in ids if image_id not in found]
    for image_id in missing:
        err.print(f"{collection} has no image {image_id}", markup=False, highlight=False)
    if missing:
        raise typer.Exit(1)


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
    ids: Annotated[list[str] | None, typer.Argument(help="The ids.")] = None,
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    where: Where = None,
    dry_run: Annotated[bool, typer.Option(help="Count what would be removed, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove images by their ids, or those that fit. Exit code 1 where one of the ids does not exist."""
    condition = condition_of(where)
    if bool(ids) is (condition is not None):
        raise typer.BadParameter("either ids or --where should say what is removed")
    with connected(target) as client:

        def delete(*, dry_run: bool) -> int:
            if condition is not None:
                return client.delete_where(collection, condition, dry_run=dry_run)
            return client.delete(collection, ids or [], dry_run=dry_run)

        missing = sorted(set(ids or ()) - client.get_many(collection, ids).keys()) if ids else []
        for image_id in missing:
            err.print(f"{collection} has no image {image_id}", markup=False, highlight=False)
        count = delete(dry_run=True)
        if dry_run:
            out.print(f"would remove {count} images of {collection}")
        else:
            if count and not yes:
                typer.confirm(f"Remove {count} images of {collection}?", abort=True)
            out.print(f"removed {delete(dry_run=False) if count else 0} images of {collection}")
    if missing:
        raise typer.Exit(1)
