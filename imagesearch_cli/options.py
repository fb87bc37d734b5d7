"""The options that commands share, and what their texts mean."""

from collections.abc import Sequence
from typing import Annotated

import typer

from imagesearch_client.filters import Filter, all_of, parse, read_value, split_values, unquoted
from imagesearch_client.types import AttributeValue, HnswParameters, Index, IndexParameters, IvfParameters, Region

DEFAULT_COLLECTION = "images"

Target = Annotated[
    str,
    typer.Option("--target", envvar="IMAGESEARCH_TARGET", help="The search service, HOST:PORT or a gRPC name."),
]
CollectionName = Annotated[
    str,
    typer.Option("--collection", "-c", envvar="IMAGESEARCH_COLLECTION", help="The collection to work on."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Only images that fit: 'price<100' (also <=, >, >=), 'day>=2024-05-01', 'category=shoe' (also !=), "
        "'name^=red', 'size in 41,42', 'sale' (has it), '!sale'. A value is a number, true, false or a text, and "
        '"a text" where it is quoted. May be repeated; all have to fit.',
    ),
]

OpenOption = Annotated[
    list[str] | None,
    typer.Option(
        "--open",
        metavar="PLACE",
        help="Open only files at stored uris of this protocol, such as sftp, or that begin like this: /photos, "
        "s3://bucket/. May be repeated. [default: local files, http, https, s3, gs]",
    ),
]

IndexOption = Annotated[
    Index | None,
    typer.Option(case_sensitive=False, help="What answers the queries; Milvus Lite compares every vector anyway."),
]
EdgesOption = Annotated[int | None, typer.Option("--m", min=1, help="HNSW: edges of a node. [default: 16]")]
CandidatesOption = Annotated[
    int | None, typer.Option(min=1, help="HNSW: candidates looked at when a node is put in. [default: 200]")
]
ClustersOption = Annotated[
    int | None, typer.Option(min=1, help="IVF_FLAT, IVF_SQ8: number of clusters. [default: 128]")
]


def condition_of(where: Sequence[str] | None) -> Filter | None:
    """The filter of the --where options; None where there are none."""
    try:
        conditions = [parse(text) for text in where or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--where") from None
    return all_of(*conditions) if conditions else None


def region_of(text: str) -> Region | None:
    """The region of the --region option; None where there is none."""
    if not text:
        return None
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} should be X0,Y0,X1,Y1, such as 0,0,0.5,1", param_hint="--region") from None
    return Region(x0, y0, x1, y1)


def read_attribute(text: str) -> AttributeValue:
    """An attribute's value as --where reads it, or a list of texts, as [a,"b, c"]. Raises ValueError."""
    if text.startswith("[") and text.endswith("]"):
        return [unquoted(part) for part in split_values(text[1:-1]) if part.strip()]
    return read_value(text)


def index_parameters_of(m: int | None, ef_construction: int | None, nlist: int | None) -> IndexParameters | None:
    """The index parameters that were given; None where none were."""
    if nlist is not None and (m is not None or ef_construction is not None):
        raise typer.BadParameter("--nlist is for IVF, --m and --ef-construction are for HNSW")
    if nlist is not None:
        return IvfParameters(nlist)
    if m is None and ef_construction is None:
        return None
    default = HnswParameters()
    return HnswParameters(
        default.m if m is None else m, default.ef_construction if ef_construction is None else ef_construction
    )
