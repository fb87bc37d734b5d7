"""The summary of a load, and the exit code that follows from it."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer
from rich.text import Text

from imagesearch_cli.console import FAILED, INTERRUPTED, NAMED, STOPPED, err, note, show
from imagesearch_ingest.json_text import json_text
from imagesearch_ingest.load.report import LoadReport, MissingImages
from imagesearch_ingest.sources.file_errors import without_password
from imagesearch_ingest.sources.image_formats import SUPPORTED_SUFFIXES, describe_unsupported


def finish(
    report: LoadReport, collection: str, max_failed: tuple[float, bool], *, dry_run: bool, as_json: bool
) -> NoReturn:
    """Print the summary of a load, and end the command. `max_failed` is a number, and whether it is a percentage."""
    if as_json:
        _print_json(report, collection, dry_run=dry_run)
    else:
        _print_summary(report, collection, dry_run=dry_run)
    if report.interrupted:
        # A thread may hang in a read, and Python would wait for it.
        sys.stdout.flush()
        os._exit(INTERRUPTED)
    if report.stopped:
        raise typer.Exit(STOPPED)
    number, is_percentage = max_failed
    if report.failed > (number / 100 * report.listed if is_percentage else number):
        raise typer.Exit(FAILED)
    raise typer.Exit(0)


def finish_without_images(
    report: LoadReport, sources: Sequence[str], collection: str, *, dry_run: bool, as_json: bool
) -> NoReturn:
    """Report that the sources have no image, and end the command."""
    skipped = f"{describe_unsupported(report.unsupported_suffixes)}; " if report.unsupported else ""
    names = ", ".join(map(without_password, sources))
    note(f"no images in {names}; {skipped}files of images end in {SUPPORTED_SUFFIXES}")
    if as_json:
        _print_json(report, collection, dry_run=dry_run)
    raise typer.Exit(FAILED)


def print_gone(gone: MissingImages) -> None:
    """Name some of the images that a source no longer has."""
    for name in gone.names[:NAMED]:
        note(f"  {name}")
    if gone.count > NAMED:
        note(f"  ... and {gone.count - NAMED} more")


def _print_json(report: LoadReport, collection: str, *, dry_run: bool) -> None:
    print(json_text({"collection": collection, "dry_run": dry_run} | report.as_json()))


def _print_summary(report: LoadReport, collection: str, *, dry_run: bool) -> None:
    _print_counts(report, collection, dry_run=dry_run)
    if report.replaced:
        show(
            f"  {report.replaced} of the stored images replaced an image with the same id that another source or "
            "ledger had stored"
        )
    if report.unsupported:
        show(f"  {describe_unsupported(report.unsupported_suffixes)}; --rejects FILE names them")
    if report.system_files:
        show(f"  {report.system_files} left out: made by systems or programs, such as thumbnails")
    if report.failed_before:
        show(f"  {report.failed_before} failed in an earlier run; --retry-failed tries them again")
    for gone in report.missing if dry_run else ():
        note(f"  {gone.count} of the {gone.known} images of {gone.source} would be deleted:")
        print_gone(gone)
    _print_failures(report)
    if report.stopped:
        _print_stopped(report)


def _print_failures(report: LoadReport) -> None:
    for reason, count in sorted(report.reasons.items()):
        note(f"  {count} x {reason}")
    for remark in report.remarks:
        note(f"  note: {remark}")
    for reject in report.first_rejects:
        note(f"  {reject.where}: {reject.message}")
    if report.failed > NAMED:
        note(f"  ... and {report.failed - NAMED} more; --rejects FILE writes all of them")


def _print_counts(report: LoadReport, collection: str, *, dry_run: bool) -> None:
    done = "could be stored" if dry_run else "stored"
    rate = f", {report.images_per_second:.1f} images/s" if report.stored else ""
    others = {
        "unchanged": report.skipped,
        "with new attributes or another uri": report.updated,
        "duplicates": report.duplicates,
        "failed": report.failed,
        f"no longer in the source and {'would be deleted' if dry_run else 'deleted'}": report.removed,
    }
    counts = [f"{count} {what}" for what, count in others.items() if count]
    if counts:
        show(f"{report.listed} images: {'; '.join([f'{report.stored} {done} in {collection}{rate}', *counts])}")
    else:
        show(f"{report.stored} of {report.listed} images {done} in {collection}{rate}")


def _print_stopped(report: LoadReport) -> None:
    is_refused = report.stopped.startswith("PRUNE_REFUSED")
    if report.remaining and not is_refused:
        about = "at least" if report.expected is None else "about"
        note(f"  {about} {report.remaining} images are left for the next run")
    resumes = "" if is_refused else ". Run the same command again to resume."
    stopped = Text.assemble(("stopped early", "bold red"), f": {report.stopped}{resumes}")
    err.print(stopped, soft_wrap=not err.is_terminal)
