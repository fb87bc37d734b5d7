"""Files of neighbours: JSON, JSON lines and Parquet, one record for each image."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from imagesearch_analysis.nearest import Neighbors
from imagesearch_client.types import Metric
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.json_text import json_text

Record: TypeAlias = Mapping[str, Any]
"""{"id", "neighbors": [{"id", "score"}, ...]}; for L2 a neighbour has its "distance" too."""


@dataclass(frozen=True, slots=True)
class Style:
    """What is written of the neighbours."""

    metric: Metric
    digits: int | None = None
    """Decimal places of scores and distances; None is all."""
    min_score: float | None = None


def records(names: Sequence[str], parts: Iterable[tuple[int, Neighbors]], style: Style) -> Iterator[list[Record]]:
    """The records of each part of some neighbours.

    Args:
        names: what each image is called, by position.
        parts: neighbours, each with the position of the first image.
        style: what is written of them.
    """
    for begin, found in parts:
        used = np.unique(found.positions[found.positions >= 0])
        called = dict(zip(used.tolist(), (names[position] for position in used.tolist()), strict=True))
        rows = zip(found.positions.tolist(), found.scores.tolist(), found.distances.tolist(), strict=True)
        own = names[begin : begin + len(found.positions)]
        yield [
            {"id": name, "neighbors": [_neighbor(called[p], s, d, style) for p, s, d in _kept(*row, style.min_score)]}
            for name, row in zip(own, rows, strict=True)
        ]


def _kept(
    positions: Sequence[int], scores: Sequence[float], distances: Sequence[float], min_score: float | None
) -> Iterator[tuple[int, float, float]]:
    for position, score, distance in zip(positions, scores, distances, strict=True):
        if position >= 0 and (min_score is None or score >= min_score):
            yield position, score, distance


def _neighbor(name: str, score: float, distance: float, style: Style) -> Record:
    found = {"score": score} if style.metric is not Metric.L2 else {"score": score, "distance": distance}
    return {"id": name} | {key: _rounded(value, style.digits) for key, value in found.items()}


def _rounded(value: float, digits: int | None) -> float:
    return value if digits is None else round(value, digits)


def write_neighbors(target: Path, batches: Iterable[Sequence[Record]], metric: Metric) -> None:
    """Writes a file whole or not at all, in the format of its suffix. Raises OSError, KeyError of the suffix."""
    write = WRITERS[target.suffix.lower()]
    with atomic_write(target) as partial:
        write(partial, batches, metric)


def _write_json(path: Path, batches: Iterable[Sequence[Record]], _: Metric) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        separator = "\n"
        for batch in batches:
            for record in batch:
                file.write(separator)
                _dump(record, file)
                separator = ",\n"
        file.write("\n]\n")


def _write_json_lines(path: Path, batches: Iterable[Sequence[Record]], _: Metric) -> None:
    with path.open("w", encoding="utf-8") as file:
        for batch in batches:
            for record in batch:
                _dump(record, file)
                file.write("\n")


def _dump(record: Record, file: IO[str]) -> None:
    file.write(json_text(record, readable=True))


def _write_parquet(path: Path, batches: Iterable[Sequence[Record]], metric: Metric) -> None:
    import pyarrow as pa  # noqa: PLC0415 - of use for this format alone
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    values = ["score", "distance"] if metric is Metric.L2 else ["score"]
    neighbor = pa.struct([pa.field("id", pa.string()), *(pa.field(name, pa.float64()) for name in values)])
    schema = pa.schema([pa.field("id", pa.string()), pa.field("neighbors", pa.list_(neighbor))])
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(list(batch), schema))


WRITERS: Mapping[str, Callable[[Path, Iterable[Sequence[Record]], Metric], None]] = {
    ".json": _write_json,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
