"""Calculate the tables of docs/operate/scale.md from measured costs and from the layout of each index.

`python -m docs.sizing IMAGES` prints two of them for your number of images.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KB, MB, GB, TB = 1e3, 1e6, 1e9, 1e12
HOUR, DAY = 3600.0, 86400.0
SIZES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
REPLICAS = (1, 3, 10, 30, 100)

# Share of its time that a service should work at most, so that queues stay short.
LOAD = 0.7
# CPUs of an embedder's pod in deploy/k8s, and of the machine of the benchmarks.
POD_CPUS = 2
# CPU seconds: docs/explanation/benchmarks.md, "What limits the calls" and "What limits one embedder".
SEARCH_SERVICE_PER_QUERY, SEARCH_SERVICE_PER_WRITE, CLIENT_PER_IMAGE = 1.25e-3, 1.3e-3, 0.6e-3
# CPU seconds of a search in one segment of 100,000 vectors with HNSW, and of building its index for a vector.
MILVUS_PER_SEGMENT, INDEX_PER_VECTOR = 1e-3, 0.7e-3
# Bytes of a JPEG of 640x480.
PHOTOGRAPH = 100 * KB

DIMENSION = 512
VECTOR = DIMENSION * 4
# Bytes of id, uri, digest, times and a few attributes.
ROW = 400
# Bytes of a sealed segment, by Milvus' default.
SEGMENT = 1 * GB
# Factor for what Milvus needs beside the index: buffers, deletes, space to load a segment again.
HEADROOM = 1.25
# Memory of a query node in deploy/milvus/values.yaml.
NODE = 16 * 2**30


@dataclass(frozen=True)
class Index:
    """Bytes of one vector in an index."""

    name: str
    memory: float
    disk: float
    how: str


INDEXES = (
    # Two lists of M links in the lowest layer, and one on 1/M of the vectors above.
    Index("HNSW, M 16", VECTOR + 2 * 16 * 4 + 8, 0, "vectors, 32 links of 4 bytes, its id"),
    Index("IVF_SQ8", DIMENSION + 8, 0, "a byte for each component, its id"),
    # Codes of 1/8 and a cache of 1/10 of the vectors in memory; on disk a page of 4 KB with the vector and 56 links.
    Index("DISKANN", VECTOR * (0.125 + 0.1), 4096, "codes of 1/8, a cache of 1/10; a page of 4 KB on disk"),
    Index("binary, 256 bits", 256 / 8 + 8, VECTOR, "its code and its id; the vectors for re-ranking are on disk"),
)  # fmt: skip


def images_per_second() -> float:
    """Return the measured rate of one embedder with two CPUs and bfloat16, over one EmbedStream."""
    figures = json.loads((BENCHMARKS / "embedder_throughput.json").read_text())["figures"]
    return float(figures["D_stream_images_per_second"])


def segments(images: int) -> int:
    """Return the number of segments that a search reads."""
    return max(1, round(images * (VECTOR + ROW) / SEGMENT))


def embedding_table() -> str:
    """Return the table of embedders."""
    rate = images_per_second()
    rows = [
        (
            count,
            count * POD_CPUS,
            f"{count * rate:,.0f} /s",
            duration(1e6 / (count * rate)),
            duration(1e8 / (count * rate)),
            f"{count * rate * LOAD:,.0f} /s",
            f"{size(count * rate * PHOTOGRAPH)}/s",
        )
        for count in REPLICAS
    ]
    head = (
        "embedders",
        "CPUs",
        "images in a load",
        "1 million",
        "100 million",
        "queries by image, 70 %",
        "traffic",
    )
    return table(head, rows)


def search_table() -> str:
    """Return the table of search services with one CPU each."""
    rows = [
        (
            count,
            f"{count * LOAD / SEARCH_SERVICE_PER_QUERY:,.0f} /s",
            f"{count * LOAD / SEARCH_SERVICE_PER_WRITE:,.0f} /s",
            f"{count * LOAD / SEARCH_SERVICE_PER_WRITE / images_per_second():,.0f}",
        )
        for count in (1, 2, 3, 6, 10)
    ]
    return table(("search services", "queries", "vectors written", "embedders that they keep up with"), rows)


def index_table(sizes: tuple[int, ...]) -> str:
    """Return the memory and disk of each index for each number of images."""
    rows = [
        (
            index.name,
            f"{index.memory:,.0f} B",
            *(_space(index, count) for count in sizes),
            index.how,
        )
        for index in INDEXES
    ]
    return table(("index", "memory for a vector", *(short(count) for count in sizes), "content"), rows)


def _space(index: Index, images: int) -> str:
    memory = size(images * index.memory)
    return f"{memory} + {size(images * index.disk)} disk" if index.disk else memory


def cluster_table(sizes: tuple[int, ...]) -> str:
    """Return what a cluster needs for each number of images."""

    def row(name: str, values: list[str]) -> tuple[str, ...]:
        return (name, *values)

    rate = images_per_second()
    rows = [
        row("embedding, CPU hours", [f"{count * POD_CPUS / rate / HOUR:,.0f}" for count in sizes]),
        row("embedding with 10 embedders", [duration(count / (10 * rate)) for count in sizes]),
        *(
            row(
                f"query nodes of 16 GiB, {index.name}",
                [f"{max(2, -(-count * (index.memory + ROW) * HEADROOM // NODE)):,.0f}" for count in sizes],
            )
            for index in INDEXES
        ),
        row("segments of 1 GB", [f"{segments(count):,}" for count in sizes]),
        row(
            "CPU time of a query in Milvus, HNSW",
            [duration(segments(count) * MILVUS_PER_SEGMENT) for count in sizes],
        ),
        row("index building, CPU hours", [f"{count * INDEX_PER_VECTOR / HOUR:,.1f}" for count in sizes]),
        row("object store: data and HNSW", [size(count * (VECTOR + ROW + INDEXES[0].memory)) for count in sizes]),
        row("the photographs themselves", [size(count * PHOTOGRAPH) for count in sizes]),
    ]
    return table(("", *(short(count) for count in sizes)), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def size(count: float) -> str:
    """Return a number of bytes with its unit, such as `4.1 GB`."""
    for unit, name in ((TB, "TB"), (GB, "GB"), (MB, "MB"), (KB, "KB")):
        if count >= unit:
            return f"{count / unit:.{0 if count >= 10 * unit else 1}f} {name}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Return a time with its unit, such as `9.8 h`."""
    for unit, name in ((DAY, "days"), (HOUR, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.{0 if seconds >= 10 * unit else 1}f} {name}"
    return f"{seconds * 1e3:.0f} ms"


def short(count: int) -> str:
    """Return a number of images in words, such as `10 million`."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count:,}"


TABLES: dict[str, Callable[[], str]] = {
    "embedders": embedding_table,
    "search services": search_table,
    "indexes": lambda: index_table(SIZES),
    "clusters": lambda: cluster_table(SIZES),
}


def main() -> None:
    """Print the tables for one number of images."""
    parser = argparse.ArgumentParser(prog="python -m docs.sizing", description=__doc__)
    parser.add_argument("images", type=int, help="number of images")
    images = parser.parse_args().images
    print(f"{index_table((images,))}\n\n{cluster_table((images,))}")


if __name__ == "__main__":
    main()
