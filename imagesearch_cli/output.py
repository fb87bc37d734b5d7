"""What the commands print: tables and lines for people, JSON for programs."""

import dataclasses
import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpc_kit.errors import ServiceError
from imagesearch_cli.options import read_attribute
from imagesearch_client.filters import split_values, unquoted
from imagesearch_client.types import AttributeValue, Collection, Explanation, Hit, Image
from imagesearch_ingest.json_text import json_text

SHOWN_REJECTS = 10
# Numbers between these have 4 decimals in tables.
LEAST, MOST = 1e-3, 1e6
UNBOUNDED = 10_000

# Results go to standard output and everything else to standard error, so that results can be piped.
# Where nobody looks, nothing is cut to the width of a window.
out = Console(width=None if sys.stdout.isatty() else UNBOUNDED)
err = Console(stderr=True, width=None if sys.stderr.isatty() else UNBOUNDED)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found for a query."""

    query: str
    hits: list[Hit]
    explanation: Explanation


def confirm(question: str) -> None:
    """Asks before something is removed. Without a terminal nobody can answer, and the command ends."""
    if not sys.stdin.isatty():
        err.print(Text(f"{question} Standard input is no terminal, so that nobody can answer: --yes removes them"))
        raise typer.Exit(2)
    typer.confirm(question, abort=True)


def print_found(
    found: Sequence[Answer], failed: Sequence[tuple[str, ServiceError]], *, explain: bool, as_json: bool
) -> None:
    """The hits of each query, and what is wrong with some."""
    if as_json:
        rows = [answer_json(answer, explain=explain) for answer in found]
        rows += [{"query": query, "error": fault.reason, "message": fault.message} for query, fault in failed]
        print(json_text(rows))
    else:
        for answer in found:
            print_hits(answer.query, answer.hits)
            if explain:
                out.print(explained(answer.explanation), highlight=False)
    for query, fault in failed:
        err.print(Text(f"{query}: {fault.reason}: {fault.message}"), style="red")


def print_hits(query: str, hits: Sequence[Hit]) -> None:
    """A table of the hits of one query."""
    table = Table("", "score", "distance", "id", title=Text(query), title_justify="left")
    for rank, hit in enumerate(hits, start=1):
        table.add_row(str(rank), shown_number(hit.score), shown_number(hit.distance), Text(hit.image.id))
    out.print(table if hits else Text(f"{query}: no hits"))


def shown_number(value: float) -> str:
    """A score or a distance with 4 decimals; with 4 significant digits if it is too small or too large for them."""
    return f"{value:.4f}" if value == 0 or LEAST <= abs(value) < MOST else f"{value:.4g}"


def explained(explanation: Explanation) -> str:
    """An explanation in words."""
    parameters = dataclasses.asdict(explanation.index_parameters) if explanation.index_parameters else {}
    built = "".join(f" {name}={value}" for name, value in parameters.items())
    stages = ""
    if coarse := explanation.coarse:
        stages = (
            f"codes {coarse.version} of {coarse.bits} bits, {coarse.candidates} candidates "
            f"{1000 * coarse.coarse_seconds:.1f} ms, compared {1000 * coarse.fine_seconds:.1f} ms; "
        )
    return (
        f"{stages}index {explanation.index.value}{built}; {1000 * explanation.embed_seconds:.1f} ms embedding, "
        f"{1000 * explanation.store_seconds:.1f} ms Milvus, {1000 * explanation.total_seconds:.1f} ms in all"
    )


def print_collections(found: Sequence[tuple[Collection, int]]) -> None:
    """A table of collections with their numbers of images."""
    if not found:
        out.print("no collections yet; `imagesearch ingest FOLDER` makes one")
        return
    described = any(collection.description for collection, _ in found)
    table = Table("collection", "images", "metric", "dimension", "model", "fingerprint", *["description"] * described)
    for collection, count in found:
        table.add_row(
            collection.name,
            str(count),
            collection.metric.value,
            str(collection.dimension),
            collection.model,
            collection.fingerprint,
            *[Text(collection.description)] * described,
        )
    out.print(table)


def shown_attribute(value: AttributeValue) -> str:
    """An attribute's value as `images set` takes it."""
    if isinstance(value, str):
        return value if _is_read_as_itself(value) else json_text(value, readable=True)
    if isinstance(value, bool | int | float):
        return json_text(value, readable=True)
    return f"[{','.join(map(shown_in_list, value))}]"


def _is_read_as_itself(text: str) -> bool:
    try:
        return read_attribute(text) == text
    except ValueError:
        return False


def shown_in_list(text: str) -> str:
    """One text of a list, between quotes where it would not be read as it is without."""
    if split_values(text) == [text] and unquoted(text) == text and text:
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


def collection_json(collection: Collection, count: int) -> dict[str, object]:
    """A collection as JSON has it."""
    return {
        "name": collection.name,
        "images": count,
        "model": collection.model,
        "dimension": collection.dimension,
        "fingerprint": collection.fingerprint,
        "metric": collection.metric.value,
        "index": collection.index.value,
        "index_parameters": dataclasses.asdict(collection.index_parameters) if collection.index_parameters else {},
        "consistency": collection.consistency.value,
        "ttl_seconds": collection.ttl.total_seconds() if collection.ttl else None,
        "description": collection.description,
        "labels": dict(collection.labels),
        "create_time": collection.create_time.isoformat(),
    }


def answer_json(answer: Answer, *, explain: bool) -> dict[str, object]:
    """What was found for a query as JSON has it."""
    found: dict[str, object] = {"query": answer.query, "hits": [hit_json(hit) for hit in answer.hits]}
    if explain:
        how = dataclasses.asdict(answer.explanation)
        found["explanation"] = how | {"index": answer.explanation.index.value}
    return found


def hit_json(hit: Hit) -> dict[str, object]:
    """A hit as JSON has it."""
    return {
        "id": hit.image.id,
        "score": hit.score,
        "distance": hit.distance,
        "uri": hit.image.uri,
        "attributes": dict(hit.image.attributes),
    }


def image_json(image: Image) -> dict[str, object]:
    """A stored image as JSON has it."""
    found: dict[str, object] = {
        "id": image.id,
        "uri": image.uri,
        "attributes": dict(image.attributes),
        "content_sha256": image.content_sha256,
        "create_time": image.create_time.isoformat(),
        "update_time": image.update_time.isoformat(),
    }
    if image.embedding is not None:
        found["vector"] = image.embedding.values.tolist()
    if image.region is not None:
        found["region"] = dataclasses.astuple(image.region)
    return found
