"""Writes duplicates: a list of what to keep and remove, a page with pictures, and a curve by threshold."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from imagesearch_analysis.choices import Action
from imagesearch_analysis.duplicates import Member, ThresholdCurve
from imagesearch_analysis.pages import render_page
from imagesearch_analysis.pictures import map_in_threads, thumbnail_url
from imagesearch_ingest.atomic_file import atomic_write, write_text
from imagesearch_ingest.json_text import json_text, rounded

Group: TypeAlias = Sequence[Member]
Row: TypeAlias = Mapping[str, Any]

COLUMNS = ("group", "action", "id", "score", "same_file", "width", "height", "bytes", "uri")
# The largest numbers of groups on a page, and of images of a group.
SHOWN_GROUPS, SHOWN_MEMBERS = 300, 24
THUMBNAIL = 160


def rows(groups: Iterable[Group]) -> Iterator[Row]:
    """Return a row for each image of each group, first the kept image."""
    for number, group in enumerate(groups, start=1):
        for member in group:
            size = member.size
            yield {
                "group": number,
                "action": member.action.value,
                "id": member.image.id,
                "score": rounded(member.score),
                "same_file": member.same_file,
                "width": size and size.width,
                "height": size and size.height,
                "bytes": size and size.bytes,
                "uri": member.image.uri,
            }


def write_list(target: Path, groups: Iterable[Group]) -> None:
    """Write the rows as CSV, JSON or JSON lines, a complete file or none. Raises OSError; KeyError of the suffix."""
    write = WRITERS[target.suffix.lower()]
    with atomic_write(target) as partial:
        write(partial, rows(groups))


def _write_csv(path: Path, found: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"same_file": int(row["same_file"])} for row in map(dict, found))


def _write_json(path: Path, found: Iterable[Row]) -> None:
    path.write_text(json_text(list(found), readable=True, indent=1) + "\n", encoding="utf-8")


def _write_json_lines(path: Path, found: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json_text(row, readable=True) + "\n" for row in found)


WRITERS: Mapping[str, Callable[[Path, Iterable[Row]], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".jsonl": _write_json_lines,
}


def write_report(target: Path, groups: Sequence[Group], title: str, facts: Mapping[str, str]) -> None:
    """Write a page with the pictures of the largest groups. Raises OSError."""
    shown = [
        {"number": number, "images": list(_figures(group)), "hidden": max(0, len(group) - SHOWN_MEMBERS)}
        for number, group in enumerate(islice(groups, SHOWN_GROUPS), start=1)
    ]
    hidden = max(0, len(groups) - SHOWN_GROUPS)
    write_text(target, render_page("duplicates.html", title=title, facts=facts, groups=shown, hidden=hidden))


def _figures(group: Group) -> Iterator[Row]:
    shown = group[:SHOWN_MEMBERS]
    urls = map_in_threads(lambda member: thumbnail_url(member.image.uri, THUMBNAIL, member.image.region), shown)
    for member, url in zip(shown, urls, strict=True):
        yield {"name": member.image.id, "action": member.action.value, "facts": _facts(member), "url": url}


def _facts(member: Member) -> list[str]:
    if member.action is Action.KEEP:
        facts = []
    elif member.same_file:
        facts = ["same file"]
    else:
        facts = [f"{member.score:.4f}"]
    return facts if member.size is None else [*facts, f"{member.size.width} x {member.size.height}"]


def plot_curve(target: Path, curve: ThresholdCurve, threshold: float, score_name: str) -> None:
    """Draw the numbers of pairs, groups and repeated images by threshold. Raises OSError.

    Args:
        target: the picture; its suffix is the format.
        curve: the numbers.
        threshold: the threshold to mark.
        score_name: the label of the axis of thresholds.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - matplotlib takes a while to import

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, counts in (("pairs", curve.pairs), ("repeated images", curve.repeated), ("groups", curve.groups)):
        axes.step(curve.thresholds, counts, where="pre", label=name)
    axes.axvline(threshold, color="grey", linestyle="--", label=f"threshold {threshold:.4g}")
    # The scale starts at 0, and is logarithmic from 10.
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"lowest {score_name}")
    axes.set_ylabel("number")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    with atomic_write(target) as partial:
        figure.savefig(partial, format=target.suffix[1:].lower(), dpi=110)
