"""Options that several commands share. Each one is defined here once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from imagesearch_client.defaults import MAX_CANDIDATES, MAX_REGIONS
from imagesearch_client.types import Index, Match
from imagesearch_ingest.load.limits import MAX_READERS

DEFAULT_COLLECTION = "images"
RETRY_SECONDS = 300.0
# Panels of --help.
CONNECTION, INDEX, TUNING = "Connection", "Index", "Index tuning"
SOURCES, RUNS, PRUNING = "Sources", "Repeated runs", "Pruning"
TRUTH, MEASURING = "Right answers", "Measurement"

Target = Annotated[
    str,
    typer.Option(
        "--target",
        envvar="IMAGESEARCH_TARGET",
        metavar="HOST:PORT",
        help="Address of the search service. dns:///HOST:PORT connects to all replicas behind a name.",
        rich_help_panel=CONNECTION,
    ),
]
Embedder = Annotated[
    str,
    typer.Option(
        "--embedder",
        envvar="IMAGESEARCH_EMBEDDER",
        metavar="HOST:PORT",
        help="Address of the embedder. dns:///HOST:PORT connects to all replicas behind a name.",
        rich_help_panel=CONNECTION,
    ),
]
CollectionName = Annotated[
    str,
    typer.Option(
        "--collection", "-c", envvar="IMAGESEARCH_COLLECTION", metavar="NAME", help="Name or alias of the collection."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Force = Annotated[bool, typer.Option("--force", help="Replace output files that exist.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Select images by an attribute: 'price<100' (also <=, >, >=), 'day>=2024-05-01', 'category=shoe' (also "
        "!=), 'name^=red' (begins with), 'size in 41,42', 'sale' (has the attribute), '!sale' (does not have it). "
        "A value is a number, true, false or a text; put a text that looks like a number in double quotes. Repeat the "
        "option to add conditions: an image must fulfil all of them.",
    ),
]
OpenOption = Annotated[
    list[str] | None,
    typer.Option(
        "--open",
        metavar="PREFIX",
        help="Read image files only at stored uris with this protocol, such as sftp, or this beginning, such as "
        "/photos or s3://bucket/. May be repeated. [default: local files, http, https, s3, gs]",
    ),
]
SnapshotFolder = Annotated[
    Path | None,
    typer.Option(
        "--snapshot",
        file_okay=False,
        metavar="FOLDER",
        help="Folder that keeps a copy of the collection's vectors. The next command with the same folder reads the "
        "copy if the collection has not changed. [default: a temporary folder below TMPDIR]",
    ),
]


def output_option(contents: str) -> Any:
    """Return the option --output, which names a file to write."""
    return typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help=contents)


def limit_option(meaning: str, most: int | None = None, least: int = 1) -> Any:
    """Return the option --limit, the maximum number of what a command returns."""
    return typer.Option("--limit", "-k", min=least, max=most, metavar="N", help=meaning)


def seed_option(meaning: str, panel: str | None = None) -> Any:
    """Return the option --seed of a command with random parts."""
    return typer.Option("--seed", min=0, max=2**31 - 1, metavar="N", help=meaning, rich_help_panel=panel)


# How an index is built.
IndexOption = Annotated[
    Index | None,
    typer.Option(
        "--index",
        case_sensitive=False,
        help="Vector index. Milvus Lite always compares every vector.",
        rich_help_panel=INDEX,
    ),
]
EdgesOption = Annotated[
    int | None,
    typer.Option(
        "--m",
        min=1,
        metavar="N",
        help="HNSW: maximum number of edges of a node. [default: 16]",
        rich_help_panel=INDEX,
    ),
]
ConstructionOption = Annotated[
    int | None,
    typer.Option(
        "--ef-construction",
        min=1,
        metavar="N",
        help="HNSW: number of candidates examined when a vector is added. [default: 200]",
        rich_help_panel=INDEX,
    ),
]
ClustersOption = Annotated[
    int | None,
    typer.Option(
        "--nlist",
        min=1,
        metavar="N",
        help="IVF_FLAT, IVF_SQ8: number of clusters. [default: 128]",
        rich_help_panel=INDEX,
    ),
]

# How an index is searched.
Exact = Annotated[
    bool,
    typer.Option("--exact", help="Compare each query with every vector, without the index.", rich_help_panel=TUNING),
]
SearchEf = Annotated[
    int | None,
    typer.Option(
        "--ef",
        min=1,
        metavar="N",
        help="HNSW, AUTOINDEX: number of candidates, from the limit to 32768.",
        rich_help_panel=TUNING,
    ),
]
SearchNprobe = Annotated[
    int | None,
    typer.Option("--nprobe", min=1, metavar="N", help="IVF: number of clusters to search.", rich_help_panel=TUNING),
]
SearchList = Annotated[
    int | None,
    typer.Option(
        "--search-list",
        min=1,
        metavar="N",
        help="DISKANN: number of candidates, from the limit to ten times the limit.",
        rich_help_panel=TUNING,
    ),
]
CodeCandidates = Annotated[
    int | None,
    typer.Option(
        "--code-candidates",
        min=1,
        max=MAX_CANDIDATES,
        metavar="N",
        help="Find this number of candidates by binary codes, then re-rank them by their vectors. See "
        "`imagesearch codes`.",
        rich_help_panel=TUNING,
    ),
]

# What a search compares.
MatchOption = Annotated[
    Match,
    typer.Option(
        "--match",
        case_sensitive=False,
        help="What to compare with the query: whole images, regions of images, or all of them. The collection must "
        "have regions.",
    ),
]
RegionOption = Annotated[
    str,
    typer.Option(
        "--region",
        metavar="X0,Y0,X1,Y1",
        help="Search with this part of the image files, in fractions: 0,0,0.5,1 is the left half.",
    ),
]
AutoCrop = Annotated[
    bool,
    typer.Option(
        "--auto-crop",
        help="Search with the most salient part of each image file. The collection must have regions.",
    ),
]
# Regions of an image if a command does not name their number.
DEFAULT_REGIONS = 8
MaxRegions = Annotated[
    int | None,
    typer.Option(
        "--max-regions",
        min=0,
        max=MAX_REGIONS,
        metavar="N",
        help="Maximum number of regions of each image, so that searches can find objects. It needs a model such as "
        "vgg16-max-native.",
    ),
]

# Loads.
LedgerFile = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FILE",
        help="File that records the outcome of every image, one file for each collection. "
        "[default: below ~/.local/state/imagesearch]",
        rich_help_panel=RUNS,
    ),
]
Restart = Annotated[
    bool,
    typer.Option("--restart", help="Clear the ledger and load every image again.", rich_help_panel=RUNS),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try images again that failed in earlier runs.", rich_help_panel=RUNS)
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Store an image even if another source has already stored an image with the same id.",
        rich_help_panel=RUNS,
    ),
]
MaxImages = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="Maximum number of images to load. Skipped images do not count."),
]
RejectsOption = Annotated[
    Path | None,
    typer.Option(
        "--rejects",
        dir_okay=False,
        metavar="FILE",
        help="Write a line of JSON for each image that was not stored. The file can be loaded as a manifest later. "
        "Replaces the rejects of an earlier run, and no other file.",
    ),
]
MaxFailed = Annotated[
    str,
    typer.Option(
        "--max-failed",
        metavar="N",
        help="Maximum number of failed images, such as 10 or 1%, for exit code 0.",
    ),
]
RetrySeconds = Annotated[
    float,
    typer.Option(
        "--retry-seconds",
        min=1,
        metavar="N",
        help="How long to retry, in seconds: a service before the command stops, a file before it counts as failed.",
    ),
]
ParallelReads = Annotated[
    int,
    typer.Option("--parallel-reads", min=1, max=MAX_READERS, metavar="N", help="Number of files to read at once."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="COLUMN=NAME",
        help="Store a column as an attribute with another name. COLUMN= leaves the column out. May be repeated.",
        rich_help_panel=SOURCES,
    ),
]

# What evaluations compare with.
LabelsFileOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="CSV, TSV or JSONL file. Either a row for each image (id, path or uri) with its label, or a row for each "
        "query and relevant image.",
        rich_help_panel=TRUTH,
    ),
]
ByFolder = Annotated[
    bool,
    typer.Option("--by-folder", help="The name of an image's folder is its label.", rich_help_panel=TRUTH),
]
LabelColumn = Annotated[
    str,
    typer.Option(
        "--label-column",
        metavar="NAME",
        help="Column of the labels. [default: the only column]",
        rich_help_panel=TRUTH,
    ),
]
RoleColumn = Annotated[
    str,
    typer.Option(
        "--role-column",
        metavar="NAME",
        help="Column or stored attribute that holds each image's role: query or target.",
        rich_help_panel=TRUTH,
    ),
]
QueryRole = Annotated[
    str,
    typer.Option("--query-role", metavar="ROLE", help="Only images with this role are queries.", rich_help_panel=TRUTH),
]
TargetRole = Annotated[
    str,
    typer.Option("--target-role", metavar="ROLE", help="Only images with this role are hits.", rich_help_panel=TRUTH),
]
LabelsRoot = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="FOLDER",
        help="Folder that relative paths in the labels start from. [default: folder of the labels file]",
        rich_help_panel=TRUTH,
    ),
]
Cutoffs = Annotated[
    list[int] | None,
    typer.Option(
        "--cutoff",
        "-k",
        min=1,
        max=1000,
        metavar="N",
        help="Number of hits that count, as in recall@10. May be repeated. [default: 10]",
        rich_help_panel=MEASURING,
    ),
]
SampleSize = Annotated[
    int | None,
    typer.Option(
        "--sample",
        min=1,
        metavar="N",
        help="Maximum number of queries; more are sampled at random. [default: all]",
        rich_help_panel=MEASURING,
    ),
]
EvaluationSeed = Annotated[int, seed_option("Seed of the random sample and of the intervals.", MEASURING)]
