"""What is written of groups of duplicates: lists of what to keep and to remove, a page to look at, a curve."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from imagesearch_analysis.duplicates import Curve, Member
from imagesearch_analysis.pages import write_page
from imagesearch_analysis.pictures import at_once, data_uri, read_picture
from imagesearch_analysis.wording import Action
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.json_text import json_text, rounded

Group: TypeAlias = Sequence[Member]
Row: TypeAlias = Mapping[str, Any]

COLUMNS = ("group", "action", "id", "score", "same_file", "width", "height", "bytes", "uri")
# Groups and images of one group that a page shows.
SHOWN_GROUPS, SHOWN_MEMBERS = 300, 24
THUMBNAIL = 160


def rows(found: Iterable[Group]) -> Iterator[Row]:
    """A row for each image of each group, that which is kept first."""
    for number, group in enumerate(found, start=1):
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


def write_list(target: Path, found: Iterable[Group]) -> None:
    """Writes the rows as CSV, JSON or JSON lines, whole or not at all. Raises OSError, KeyError of the suffix."""
    write = WRITERS[target.suffix.lower()]
    with atomic_write(target) as partial:
        write(partial, rows(found))


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


def write_report(target: Path, found: Sequence[Group], title: str, facts: Mapping[str, str]) -> None:
    """Writes a page with the groups' pictures, the largest groups first, as far as SHOWN_GROUPS. Raises OSError."""
    shown = [
        {"number": number, "members": list(_shown(group)), "more": max(0, len(group) - SHOWN_MEMBERS)}
        for number, group in enumerate(islice(found, SHOWN_GROUPS), start=1)
    ]
    more = max(0, len(found) - SHOWN_GROUPS)
    write_page(target, "duplicates.html", title=title, facts=facts, groups=shown, more=more)


def _shown(group: Group) -> Iterator[Row]:
    seen = group[:SHOWN_MEMBERS]
    pictures = at_once(lambda member: read_picture(member.image.uri, THUMBNAIL, member.image.region), seen)
    for member, picture in zip(seen, pictures, strict=True):
        yield {"member": member, "facts": _facts(member), "picture": picture and data_uri(picture)}


def _facts(member: Member) -> list[str]:
    if member.action is Action.KEEP:
        facts = []
    elif member.same_file:
        facts = ["the same file"]
    else:
        facts = [f"{member.score:.4f}"]
    return facts if member.size is None else [*facts, f"{member.size.width} x {member.size.height}"]


def plot_curve(target: Path, found: Curve, threshold: float, label: str) -> None:
    """Draws how many pairs, groups and removable images there are by threshold. Raises OSError.

    Args:
        target: the file; its suffix says its format.
        found: what is drawn.
        threshold: is marked.
        label: what a score is.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - of use for this alone

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, counts in (
        ("pairs", found.pairs),
        ("images beside the first of their groups", found.repeats),
        ("groups", found.groups),
    ):
        axes.step(found.thresholds, counts, where="pre", label=name)
    axes.axvline(threshold, color="grey", linestyle="--", label=f"threshold {threshold:.4g}")
    # From 0 on, and by powers of ten where there are many.
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{label} of at least")
    axes.set_ylabel("number")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    with atomic_write(target) as partial:
        figure.savefig(partial, format=target.suffix[1:].lower(), dpi=110)
