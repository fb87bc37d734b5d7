"""Results of searches: as a table for people, as JSON for programs."""

import dataclasses
from collections.abc import Sequence

from grpc_kit.errors import ServiceError
from imagesearch_cli.console import note, show
from imagesearch_cli.records import shown_attribute
from imagesearch_cli.tables import Column, print_table
from imagesearch_client.types import Explanation, Hit, Hits, Region
from imagesearch_ingest.json_text import json_text

# Tables show numbers between these with 4 decimals.
LEAST, MOST = 1e-3, 1e6
WHOLE_IMAGE = Region(0.0, 0.0, 1.0, 1.0)
# Narrow terminals show the score and the attributes of --show rather than these.
RANK_PLACE, DISTANCE_PLACE, BOX_PLACE = 1000, 1001, 999


@dataclasses.dataclass(frozen=True)
class Answer:
    """The hits of a query."""

    query: str
    hits: Hits
    explanation: Explanation


def print_answers(
    answers: Sequence[Answer],
    failed: Sequence[tuple[str, ServiceError]],
    *,
    attributes: Sequence[str] = (),
    explain: bool,
    as_json: bool,
) -> None:
    """Print the hits of each query, and the errors of the queries that failed."""
    if as_json:
        rows = [_answer_json(answer, explain=explain) for answer in answers]
        rows += [{"query": query, "error": error.reason, "message": error.message} for query, error in failed]
        print(json_text(rows))
    else:
        for answer in answers:
            _print_hits(_title(answer), answer.hits, attributes)
            if explain:
                show(_explained(answer.explanation))
    for query, error in failed:
        note(f"{query}: {error.reason}: {error.message}", "red")


def _title(answer: Answer) -> str:
    """Return the query, with its box if only a part of the image was used."""
    box = answer.hits.query_region
    return answer.query if box in (None, WHOLE_IMAGE) else f"{answer.query} [{shown_box(box)}]"


def _print_hits(query: str, hits: Sequence[Hit], attributes: Sequence[str]) -> None:
    if not hits:
        show(f"{query}: no hits")
        return
    columns = [
        Column("", [str(rank) for rank in range(1, len(hits) + 1)], RANK_PLACE, is_number=True),
        Column("score", [shown_number(hit.score) for hit in hits], 1, is_number=True),
        Column("distance", [shown_number(hit.distance) for hit in hits], DISTANCE_PLACE, is_number=True),
        Column("id", [hit.image.id for hit in hits], 0),
    ]
    if any(hit.region for hit in hits):
        columns.append(Column("box", [shown_box(hit.region) for hit in hits], BOX_PLACE))
    for place, name in enumerate(attributes, start=2):
        values = [hit.image.attributes.get(name) for hit in hits]
        cells = ["" if value is None else shown_attribute(value) for value in values]
        columns.append(Column(name, cells, place))
    print_table(columns, title=query)


def shown_box(box: Region | None) -> str:
    """Return a box in hundredths, as --region reads it; empty for none."""
    return "" if box is None else ",".join(f"{edge:.2f}" for edge in dataclasses.astuple(box))


def shown_number(value: float) -> str:
    """Return a score or a distance with 4 decimals, or with 4 significant digits if it is very small or very large."""
    return f"{value:.4f}" if value == 0 or LEAST <= abs(value) < MOST else f"{value:.4g}"


def _explained(explanation: Explanation) -> str:
    parameters = dataclasses.asdict(explanation.index_parameters) if explanation.index_parameters else {}
    built = "".join(f" {name}={value}" for name, value in parameters.items())
    stages = ""
    if coarse := explanation.coarse:
        stages = (
            f"codes {coarse.version} of {coarse.bits} bits, {coarse.candidates} candidates in "
            f"{1000 * coarse.coarse_seconds:.1f} ms, re-ranked in {1000 * coarse.fine_seconds:.1f} ms; "
        )
    if regions := explanation.regions:
        stages = f"{regions.regions} regions in {regions.searches} searches; "
    return (
        f"{stages}index {explanation.index.value}{built}; {1000 * explanation.embed_seconds:.1f} ms embedding, "
        f"{1000 * explanation.store_seconds:.1f} ms Milvus, {1000 * explanation.total_seconds:.1f} ms in all"
    )


def _answer_json(answer: Answer, *, explain: bool) -> dict[str, object]:
    found: dict[str, object] = {"query": answer.query, "hits": [_hit_json(hit) for hit in answer.hits]}
    if answer.hits.query_region is not None:
        found["query_region"] = dataclasses.astuple(answer.hits.query_region)
    if explain:
        found["explanation"] = dataclasses.asdict(answer.explanation) | {"index": answer.explanation.index.value}
    return found


def _hit_json(hit: Hit) -> dict[str, object]:
    found: dict[str, object] = {
        "id": hit.image.id,
        "score": hit.score,
        "distance": hit.distance,
        "uri": hit.image.uri,
        "attributes": dict(hit.image.attributes),
    }
    if hit.region is not None:
        found["region"] = dataclasses.astuple(hit.region)
    return found
