"""What `imagesearch evaluate` and `imagesearch compare` share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from grpc_kit.credentials import CredentialsError
from grpc_kit.errors import ServiceError
from imagesearch_cli.connection import EMBEDDER_HINT
from imagesearch_cli.console import STOPPED, fail, listed, note
from imagesearch_ingest.atomic_file import atomic_write

if TYPE_CHECKING:
    from imagesearch_analysis.evaluation.labels import LabelsFile
    from imagesearch_analysis.evaluation.task import Roles, Task

DEFAULT_CUTOFF = 10
PAGE_SUFFIXES = (".html", ".htm")


def check_labels(labels: Path | None, label_column: str, *, by_folder: bool, by_attribute: str = "") -> None:
    """Check that exactly one option says which hits are right."""
    if (labels is not None) + by_folder + bool(by_attribute) != 1:
        raise typer.BadParameter("give exactly one of --labels, --by-folder and --by-attribute (only evaluate has it)")
    if label_column and labels is None:
        raise typer.BadParameter("has no effect without --labels", param_hint="--label-column")


def check_roles(role_column: str, query_role: str, target_role: str, *, by_folder: bool) -> None:
    """Check that the options about roles go together."""
    if (query_role or target_role) and not role_column:
        raise typer.BadParameter("--query-role and --target-role need --role-column, which names the column of roles")
    if role_column and not (query_role or target_role):
        raise typer.BadParameter("needs --query-role, --target-role or both", param_hint="--role-column")
    if role_column and by_folder:
        raise typer.BadParameter("does not work with --by-folder: folders have no roles", param_hint="--role-column")


def sorted_cutoffs(cutoffs: Sequence[int] | None) -> list[int]:
    """Return the --cutoff options in ascending order, each once."""
    return sorted(set(cutoffs or [DEFAULT_CUTOFF]))


def open_labels(labels: Path | None, label_column: str, role_column: str) -> "LabelsFile | None":
    """Return the file of --labels, or None without it."""
    if labels is None:
        return None
    from imagesearch_analysis.evaluation.labels import LabelColumns, LabelsFile  # noqa: PLC0415 - NumPy is slow
    from imagesearch_analysis.evaluation.task import TaskError  # noqa: PLC0415 - as above

    try:
        return LabelsFile(labels, LabelColumns(label_column, role_column))
    except TaskError as error:
        raise typer.BadParameter(str(error), param_hint="--labels") from None


def labelled_task(
    ids: Sequence[str],
    uris: Iterable[str],
    file: "LabelsFile | None",
    root: Path,
    roles: "Roles",
    sample: int | None,
    seed: int,
    *,
    outside: bool,
) -> "Task":
    """Return the queries and the right hits, from the file of --labels or from the images' folders.

    With `outside`, labelled files that are not among the images are queries too.
    """
    from imagesearch_analysis.evaluation.labels import KnownImages, folder_labels  # noqa: PLC0415 - NumPy is slow

    if file is None:
        return folder_labels(ids, uris).task(roles, sample, seed)
    known = KnownImages(ids, uris, root)
    if file.has_pairs:
        return file.pairs(known, outside=outside).sampled(sample, seed)
    return file.labelling(known, outside=outside).task(roles, sample, seed)


@contextmanager
def embedder_errors(*, resumes: bool = False) -> Iterator[None]:
    """End the command with a message if an embedder cannot be called, or becomes unavailable.

    `resumes` tells that the same command continues where it stopped.
    """
    from imagesearch_ingest.load.errors import LoadStoppedError  # noqa: PLC0415 - it takes a while to import

    try:
        yield
    except ServiceError as error:
        fail(f"{error.reason}: {error.message}", EMBEDDER_HINT if error.reason == "UNAVAILABLE" else "")
    except CredentialsError as error:
        fail(str(error))
    except LoadStoppedError as error:
        fail(f"{error.reason}: {error.message}", "Run the same command again to resume." if resumes else "", STOPPED)


def print_left_out(groups: Mapping[str, Sequence[str]]) -> None:
    """Print what the figures leave out, with the first names of each kind."""
    for title, names in groups.items():
        if names:
            note(f"{len(names)} {title}: {listed(names)}")


def write_page(path: Path, page: str) -> None:
    """Write a page as a whole or not at all. Raises OSError."""
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
    note(f"wrote {path}")
