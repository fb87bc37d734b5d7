"""Invalid values of every field of every request, and their errors: code, reason and field; on both backends."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from imagesearch.search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    filter_pb2,
    image_pb2,
    image_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from imagesearch.types.v1 import embedding_pb2, region_embedding_pb2
from imagesearch.types.v1 import encoded_image_pb2 as types_pb2

from grpc_kit.errors import ServiceError
from grpc_kit.status import code_of, from_status
from imagesearch_client import Client, Embedding, Index, NewImage
from imagesearch_client.filters import is_in

Refused = Callable[[Callable[[], object]], Any]
STUBS: dict[str, Any] = {
    "CollectionService": collection_pb2_grpc.CollectionServiceStub,
    "ImageService": image_pb2_grpc.ImageServiceStub,
    "SearchService": search_pb2_grpc.SearchServiceStub,
}
SERVICES = [
    module.DESCRIPTOR.services_by_name[name]
    for module, name in zip((collection_pb2, image_pb2, search_pb2), STUBS, strict=True)
]
METHODS = {method.name: method for service in SERVICES for method in service.methods}
NAN, INF = float("nan"), float("inf")
BAD, NONE, UNFIT, TAKEN = "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ALREADY_EXISTS"
# Collections: without a model, with a model, with HNSW, with DISKANN, and with at most two regions an image.
PLAIN, PHOTOS, GRAPH, DISK, PARTS = "bad_plain", "bad_photos", "bad_graph", "bad_disk", "bad_parts"


def vector(*values: float, fingerprint: str = "f") -> embedding_pb2.Embedding:
    return embedding_pb2.Embedding(values=values or (1, 0, 0, 0), fingerprint=fingerprint)


def part(*values: float, saliency: float = 1.0, **box: float) -> region_embedding_pb2.RegionEmbedding:
    edges = types_pb2.Region(**({"x1": 1, "y1": 1} | box))
    return region_embedding_pb2.RegionEmbedding(box=edges, values=values or (1, 0, 0, 0), saliency=saliency)


def attribute(**kind: Any) -> image_pb2.AttributeValue:
    return image_pb2.AttributeValue(**kind)


GOOD: dict[str, Message] = {
    "CreateCollection": collection_pb2.CreateCollectionRequest(
        collection=collection_pb2.Collection(name="bad_new", dimension=4, fingerprint="f")
    ),
    "GetCollection": collection_pb2.GetCollectionRequest(name=PLAIN),
    "ListCollections": collection_pb2.ListCollectionsRequest(),
    "DeleteCollection": collection_pb2.DeleteCollectionRequest(name="bad_nowhere"),
    "SetAlias": collection_pb2.SetAliasRequest(alias=collection_pb2.Alias(name="bad_alias", collection=PLAIN)),
    "ListAliases": collection_pb2.ListAliasesRequest(),
    "DeleteAlias": collection_pb2.DeleteAliasRequest(name="bad_alias"),
    "StartReindex": collection_pb2.StartReindexRequest(source=PLAIN, target=GRAPH),
    "HoldWrites": collection_pb2.HoldWritesRequest(source=PHOTOS),
    "FinishReindex": collection_pb2.FinishReindexRequest(source=PHOTOS),
    "CancelReindex": collection_pb2.CancelReindexRequest(source=PLAIN),
    "WriteImages": image_pb2.WriteImagesRequest(collection=PLAIN, id="a", embedding=vector()),
    "GetImage": image_pb2.GetImageRequest(collection=PLAIN, id="east"),
    "GetImages": image_pb2.GetImagesRequest(collection=PLAIN, ids=["east"]),
    "ListImages": image_pb2.ListImagesRequest(collection=PLAIN),
    "UpdateImage": image_pb2.UpdateImageRequest(
        collection=PLAIN, image=image_pb2.Image(id="east"), update_mask=FieldMask(paths=["uri"])
    ),
    "DeleteImages": image_pb2.DeleteImagesRequest(collection=PLAIN),
    "CountImages": image_pb2.CountImagesRequest(collection=PLAIN),
    "Search": search_pb2.SearchRequest(collection=PLAIN, query=search_pb2.Query(embedding=vector())),
    "SearchStream": search_pb2.SearchStreamRequest(
        request_id="1", request=search_pb2.SearchRequest(collection=PLAIN, query=search_pb2.Query(embedding=vector()))
    ),
}


@dataclass(frozen=True)
class Row:
    """A request with one invalid field, and the expected error."""

    method: str
    path: str
    value: Any
    code: str
    reason: str
    named: str | None = None
    """The field that the answer names; None is `path`."""
    beside: dict[str, Any] = field(default_factory=dict)
    """What else is set, by its path."""

    def __str__(self) -> str:
        return f"{self.method}-{self.path}-{self.reason}-{str(self.value)[:20]}"


def names(method: str, path: str) -> Iterator[Row]:
    yield Row(method, path, "Bad", BAD, "COLLECTION_NAME_INVALID")
    yield Row(method, path, "", BAD, "COLLECTION_NAME_INVALID")
    yield Row(method, path, "a" * 64, BAD, "COLLECTION_NAME_INVALID")
    if method != "CreateCollection" and path != "alias.name":
        reason = "ALIAS_NOT_FOUND" if method == "DeleteAlias" else "COLLECTION_NOT_FOUND"
        yield Row(method, path, "bad_nowhere", NONE, reason)


def enums(method: str, *paths: str) -> Iterator[Row]:
    for path in paths:
        yield Row(method, path, 9, BAD, "ENUM_INVALID")


def pages(method: str, size: str = "page_size") -> Iterator[Row]:
    reason = "LIMIT_INVALID" if size == "limit" else "PAGE_SIZE_INVALID"
    yield Row(method, size, -1, BAD, reason)
    yield Row(method, size, 1001, BAD, reason)
    yield Row(method, "page_token", "x", BAD, "PAGE_TOKEN_INVALID")
    yield Row(method, "page_token", "A" * 44, BAD, "PAGE_TOKEN_INVALID")


def filters(method: str) -> Iterator[Row]:
    def row(path: str, value: Any, named: str | None = None) -> Row:
        return Row(
            method, f"filter.{path}" if path else "filter", value, BAD, "FILTER_INVALID", named and f"filter{named}"
        )

    yield row("", filter_pb2.Filter())
    yield row("and", filter_pb2.FilterList(), ".and.filters")
    yield row("or.filters", [filter_pb2.Filter()], ".or.filters[0]")
    yield row("and.filters", [filter_pb2.Filter()] * 257, ".and.filters[0]")
    yield row("not", filter_pb2.Filter())
    for bad in ("", "1st", "a" * 129):
        beside = {"filter.equals.value.bool_value": True}
        yield Row(method, "filter.equals.attribute", bad, BAD, "FILTER_INVALID", None, beside)
    yield row("equals", filter_pb2.Equals(attribute="a"), ".equals.value")
    for path in ("equals.value", "in.values[0]"):
        attribute_path = f"filter.{path.partition('.')[0]}.attribute"
        for kind, value in (("number_value", NAN), ("number_value", INF), ("string_value", "x" * 4097)):
            yield Row(
                method, f"filter.{path}.{kind}", value, BAD, "FILTER_INVALID", f"filter.{path}", {attribute_path: "a"}
            )
    yield row("in", filter_pb2.In(attribute="a"), ".in.values")
    yield row("in.attribute", "", None)
    yield Row(
        method,
        "filter.in.values",
        [filter_pb2.FilterValue(bool_value=True)] * 1001,
        BAD,
        "FILTER_INVALID",
        beside={"filter.in.attribute": "a"},
    )
    yield row("range", filter_pb2.Range(attribute="a"))
    yield row("range.attribute", "a-b", None)
    for bound in ("gte", "gt", "lte", "lt"):
        yield Row(method, f"filter.range.{bound}", NAN, BAD, "FILTER_INVALID", None, {"filter.range.attribute": "a"})
    yield row("range", filter_pb2.Range(attribute="a", gt=1, gte=1))
    yield row("integer_range", filter_pb2.IntegerRange(attribute="a"), ".range")
    yield row("integer_range.attribute", "a-b", ".range.attribute")
    yield row("integer_range", filter_pb2.IntegerRange(attribute="a", gt=1, gte=2, lt=3, lte=4), ".range")
    yield row("text_range", filter_pb2.TextRange(attribute="a"))
    yield row("text_range.attribute", "a-b", None)
    for bound in ("gte", "gt", "lte", "lt"):
        other = {"filter.text_range.attribute": "a"}
        yield Row(method, f"filter.text_range.{bound}", "x" * 4097, BAD, "FILTER_INVALID", None, other)
    yield row("text_range", filter_pb2.TextRange(attribute="a", gt="a", gte="b"))
    beyond = [is_in("a", *range(1000))] * 11
    yield Row(method, "filter.or", filter_pb2.FilterList(filters=beyond), BAD, "FILTER_INVALID", "filter")
    # Rejected before it is converted.
    large = filter_pb2.FilterList(filters=[is_in("a", *["x" * 4096] * 1000)])
    yield Row(method, "filter.or", large, BAD, "FILTER_INVALID", "filter")
    yield row("prefix", filter_pb2.Prefix(attribute="a"), ".prefix.prefix")
    yield Row(method, "filter.prefix.prefix", "x" * 4097, BAD, "FILTER_INVALID", None, {"filter.prefix.attribute": "a"})
    yield row("prefix.attribute", "", None)
    yield row("exists.attribute", "")


def embeddings(method: str, path: str, *, deep: str | None = None) -> Iterator[Row]:
    """Return rows for a vector; `deep` is its whole path if that is not `path`."""
    whole = deep or path
    for values, reason in (((1, 0), "VECTOR_DIMENSION_MISMATCH"), ((1, 0, 0, NAN), "VECTOR_NOT_FINITE")):
        yield Row(method, f"{path}.values", values, BAD, reason, f"{whole}.values", {f"{path}.fingerprint": "f"})
    yield Row(method, f"{path}.values", (1, -INF, 0, 0), BAD, "VECTOR_NOT_FINITE", None, {f"{path}.fingerprint": "f"})
    yield Row(method, f"{path}.values", (0, 0, 0, 0), BAD, "VECTOR_ZERO", None, {f"{path}.fingerprint": "f"})
    beside = {f"{path}.values": (1, 0, 0, 0)}
    yield Row(method, f"{path}.fingerprint", "", BAD, "FINGERPRINT_INVALID", None, beside)
    yield Row(method, f"{path}.fingerprint", "other", UNFIT, "EMBEDDING_MISMATCH", path, beside)


def encoded(method: str, path: str, collection: str) -> Iterator[Row]:
    yield Row(method, path, types_pb2.EncodedImage(content=b"x"), UNFIT, "COLLECTION_WITHOUT_MODEL")
    beside = {collection: PHOTOS}
    yield Row(method, path, types_pb2.EncodedImage(), BAD, "IMAGE_MISSING", f"{path}.content", beside)
    yield Row(method, f"{path}.content", b"no image", BAD, "IMAGE_FORMAT_UNSUPPORTED", None, beside)
    for region in (
        types_pb2.Region(x0=0.5, x1=0.5, y1=1),
        types_pb2.Region(x1=1, y0=0.9, y1=0.1),
        types_pb2.Region(x0=-0.1, x1=1, y1=1),
        types_pb2.Region(x1=1, y1=1.1),
        types_pb2.Region(x1=1, y1=NAN),
    ):
        yield Row(method, f"{path}.region", region, BAD, "REGION_INVALID", None, beside | {f"{path}.content": PICTURE})


# The smallest GIF: one pixel.
PICTURE = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")


def collections() -> Iterator[Row]:
    method = "CreateCollection"
    yield from names(method, "collection.name")
    yield Row(method, "collection.name", PLAIN, TAKEN, "COLLECTION_EXISTS")
    yield Row(method, "collection.description", "x" * 1025, BAD, "DESCRIPTION_TOO_LONG")
    yield Row(method, "collection.labels", {"": "x"}, BAD, "LABELS_INVALID")
    yield Row(method, "collection.labels", {"k" * 64: "x"}, BAD, "LABELS_INVALID")
    yield Row(method, "collection.labels", {"k": "x" * 256}, BAD, "LABELS_INVALID")
    yield Row(method, "collection.labels", {str(n): "x" for n in range(65)}, BAD, "LABELS_INVALID")
    beside = {"collection.dimension": 0, "collection.fingerprint": ""}
    yield Row(method, "collection.model", "vgg99", NONE, "MODEL_NOT_FOUND", None, beside)
    yield Row(method, "collection.dimension", 1, BAD, "DIMENSION_INVALID")
    yield Row(method, "collection.dimension", -4, BAD, "DIMENSION_INVALID")
    yield Row(method, "collection.dimension", 32769, BAD, "DIMENSION_INVALID")
    yield Row(method, "collection.dimension", 7, UNFIT, "EMBEDDING_MISMATCH", None, {"collection.fingerprint": ""})
    yield Row(method, "collection.fingerprint", "a b", BAD, "FINGERPRINT_INVALID")
    yield Row(method, "collection.fingerprint", "x" * 65, BAD, "FINGERPRINT_INVALID")
    yield Row(method, "collection.fingerprint", "g", UNFIT, "EMBEDDING_MISMATCH", None, {"collection.dimension": 0})
    yield from enums(method, "collection.metric", "collection.consistency", "collection.index.type")
    hnsw, sq8 = (
        {"collection.index.type": kind} for kind in (collection_pb2.INDEX_TYPE_HNSW, collection_pb2.INDEX_TYPE_IVF_SQ8)
    )
    yield Row(method, "collection.index.hnsw", collection_pb2.HnswParameters(m=8), BAD, "INDEX_INVALID", None, sq8)
    yield Row(method, "collection.index.ivf", collection_pb2.IvfParameters(nlist=8), BAD, "INDEX_INVALID", None, hnsw)
    for m in (1, -1, 2049):
        yield Row(method, "collection.index.hnsw.m", m, BAD, "INDEX_INVALID", None, hnsw)
    yield Row(method, "collection.index.hnsw.ef_construction", -1, BAD, "INDEX_INVALID", None, hnsw)
    for nlist in (-1, 65537):
        yield Row(method, "collection.index.ivf.nlist", nlist, BAD, "INDEX_INVALID", None, sq8)
    for ttl in (
        Duration(),
        Duration(nanos=999_999_999),
        Duration(seconds=-5),
        Duration(seconds=36_500 * 86_400 + 1),
        Duration(seconds=2**62),
    ):
        yield Row(method, "collection.ttl", ttl, BAD, "TTL_INVALID")
    for count in (-1, 65):
        yield Row(method, "collection.max_regions", count, BAD, "MAX_REGIONS_INVALID")
    beside = {"collection.dimension": 0, "collection.fingerprint": "", "collection.model": "vgg16"}
    yield Row(method, "collection.max_regions", 8, BAD, "REGIONS_UNSUPPORTED", "collection.model", beside)
    yield from names("GetCollection", "name")
    yield from names("DeleteCollection", "name")
    yield from pages("ListCollections")
    yield from names("SetAlias", "alias.name")
    yield Row("SetAlias", "alias.name", PHOTOS, TAKEN, "COLLECTION_EXISTS")
    yield from names("SetAlias", "alias.collection")
    yield from pages("ListAliases")
    yield Row("ListAliases", "collection", "Bad", BAD, "COLLECTION_NAME_INVALID")
    yield Row("ListAliases", "collection", "bad_nowhere", NONE, "COLLECTION_NOT_FOUND")
    yield from names("DeleteAlias", "name")
    yield from reindexes()


def reindexes() -> Iterator[Row]:
    for method in ("StartReindex", "HoldWrites", "FinishReindex", "CancelReindex"):
        yield from names(method, "source")
    yield from names("StartReindex", "target")
    yield Row("StartReindex", "target", PLAIN, UNFIT, "REINDEX_INVALID")
    yield Row("StartReindex", "source", GRAPH, UNFIT, "TARGET_NOT_EMPTY", "target", {"target": PLAIN})
    yield Row("HoldWrites", "source", PHOTOS, UNFIT, "REINDEX_MISSING")
    for seconds in (-1, 4, 61, 2**62):
        yield Row("HoldWrites", "duration", Duration(seconds=seconds), BAD, "DURATION_INVALID")
    yield Row("FinishReindex", "source", PHOTOS, UNFIT, "REINDEX_MISSING")
    yield Row("FinishReindex", "aliases", ["good", "Bad"], BAD, "COLLECTION_NAME_INVALID", "aliases[1]")


def ids(method: str, path: str) -> Iterator[Row]:
    for bad in ("", "x" * 513, "a\x00b", "line\n"):
        yield Row(method, path, bad, BAD, "ID_INVALID")


def many_ids(method: str, path: str) -> Iterator[Row]:
    yield Row(method, path, ["east", ""], BAD, "ID_INVALID", f"{path}[1]")
    yield Row(method, path, ["x"] * 1001, BAD, "TOO_MANY_IDS")


def attributes(method: str, path: str, beside: dict[str, Any]) -> Iterator[Row]:
    for value in (
        {"a": attribute()},
        {"1a": attribute(string_value="")},
        {"a" * 129: attribute(string_value="")},
        {f"a{n}": attribute(bool_value=True) for n in range(129)},
        {"a": attribute(string_value="x" * 32769)},
        {"a": attribute(string_list_value=image_pb2.StringList(values=["x" * 20000] * 2))},
        {"a": attribute(number_value=NAN)},
        {"a": attribute(number_value=-INF)},
    ):
        yield Row(method, path, value, BAD, "ATTRIBUTE_INVALID", ANY, beside)


ANY = "*"


def images() -> Iterator[Row]:
    method = "WriteImages"
    yield from names(method, "collection")
    yield Row(method, "request_id", "x" * 129, BAD, "REQUEST_ID_TOO_LONG")
    yield from ids(method, "id")
    for method, path in (("WriteImages", "uri"), ("UpdateImage", "image.uri")):
        mask = {"update_mask.paths": ["uri"]} if method == "UpdateImage" else {}
        yield Row(method, path, "x" * 2049, BAD, "URI_INVALID", "uri", mask)
    yield from attributes("WriteImages", "attributes", {})
    yield from attributes("UpdateImage", "image.attributes", {"update_mask.paths": ["attributes"]})
    method = "WriteImages"
    yield Row(method, "embedding", None, BAD, "SOURCE_MISSING", "source")
    yield from encoded(method, "image", "collection")
    yield from embeddings(method, "embedding")
    yield Row(method, "content_sha256", "ABC", BAD, "CONTENT_SHA256_INVALID")
    beside = {"collection": PHOTOS, "image.content": PICTURE}
    yield Row(method, "content_sha256", "0" * 64, BAD, "CONTENT_SHA256_INVALID", None, beside)
    yield Row(method, "region", types_pb2.Region(x1=1, y1=1), BAD, "REGION_INVALID", None, beside)
    yield Row(method, "stored_vector", False, BAD, "SOURCE_MISSING", "source")
    yield Row(method, "stored_vector", True, NONE, "IMAGE_NOT_FOUND", "id", {"id": "nobody"})
    kept = {"id": "east", "stored_vector": True}
    yield Row(method, "content_sha256", "0" * 64, UNFIT, "CONTENT_CHANGED", None, kept)
    yield Row(method, "region", types_pb2.Region(x1=1, y1=1), BAD, "REGION_INVALID", None, kept)
    for corner, value in (("x0", 1), ("y0", -0.5), ("x1", 2), ("y1", NAN)):
        box = {"region.x1": 1, "region.y1": 1}
        yield Row(method, f"region.{corner}", value, BAD, "REGION_INVALID", "region", box)
    yield from regions()

    yield from names("GetImage", "collection")
    yield from ids("GetImage", "id")
    yield Row("GetImage", "id", "nobody", NONE, "IMAGE_NOT_FOUND")
    yield from names("GetImages", "collection")
    yield from many_ids("GetImages", "ids")
    yield Row("GetImages", "ids", [], BAD, "ID_INVALID")
    yield from names("ListImages", "collection")
    yield from enums("ListImages", "order")
    yield from pages("ListImages")
    for method in ("GetImage", "GetImages", "ListImages"):
        yield from enums(method, "view", "consistency")
    uri = {"update_mask.paths": ["uri"]}
    yield from names("UpdateImage", "collection")
    yield Row("UpdateImage", "image.id", "", BAD, "ID_INVALID", None, uri)
    yield Row("UpdateImage", "image.id", "nobody", NONE, "IMAGE_NOT_FOUND", None, uri)
    for paths in ([], ["id"], ["image.uri"], ["attributes."], ["attributes.1a"], ["embedding"], ["uri", "region"]):
        yield Row("UpdateImage", "update_mask.paths", paths, BAD, "UPDATE_MASK_INVALID", "update_mask")
    yield from (
        Row("DeleteImages", "collection", name, BAD, "COLLECTION_NAME_INVALID", None, {"ids.ids": ["a"]})
        for name in ("", "B")
    )
    yield Row("DeleteImages", "ids", None, BAD, "TARGET_MISSING", "target")
    yield Row("DeleteImages", "ids", image_pb2.ImageIds(), BAD, "ID_INVALID", "ids.ids")
    yield from many_ids("DeleteImages", "ids.ids")
    beside = {"filter.exists.attribute": "a"}
    yield Row("DeleteImages", "max_count", -1, BAD, "LIMIT_INVALID", None, beside)
    yield from names("CountImages", "collection")
    for method in ("ListImages", "DeleteImages", "CountImages"):
        yield from filters(method)


def regions() -> Iterator[Row]:
    method, beside = "WriteImages", {"collection": PARTS}
    yield Row(method, "regions", [part()], BAD, "REGIONS_UNSUPPORTED")
    yield Row(method, "regions", [part()] * 3, BAD, "TOO_MANY_REGIONS", None, beside)
    for box in ({"x0": 1.0}, {"y0": -0.5}, {"x1": 2.0}, {"y1": NAN}):
        yield Row(method, "regions", [part(), part(**box)], BAD, "REGION_INVALID", "regions[1].box", beside)
    for saliency in (NAN, INF):
        wrong = [part(saliency=saliency)]
        yield Row(method, "regions", wrong, BAD, "REGION_INVALID", "regions[0].saliency", beside)
    for values, reason in (
        ((1, 0), "VECTOR_DIMENSION_MISMATCH"),
        ((1, 0, 0, NAN), "VECTOR_NOT_FINITE"),
        ((0, 0, 0, 0), "VECTOR_ZERO"),
        ((1e30, 0, 0, 0), "VECTOR_LENGTH_INVALID"),
    ):
        yield Row(method, "regions", [part(*values)], BAD, reason, "regions[0].values", beside)
    with_image = {"collection": PHOTOS, "image.content": PICTURE}
    yield Row(method, "regions", [part()], BAD, "REGION_INVALID", None, with_image)
    yield Row(method, "regions", [part()], BAD, "REGION_INVALID", None, {"id": "east", "stored_vector": True})


def searches() -> Iterator[Row]:
    method = "Search"
    yield from names(method, "collection")
    yield Row(method, "query", None, BAD, "QUERY_MISSING")
    yield Row(method, "query", search_pb2.Query(), BAD, "QUERY_MISSING")
    yield from encoded(method, "query.image", "collection")
    yield from ids(method, "query.image_id")
    yield Row(method, "query.image_id", "nobody", NONE, "IMAGE_NOT_FOUND")
    yield from embeddings(method, "query.embedding")
    yield Row(method, "query.examples", search_pb2.Examples(), BAD, "EXAMPLES_INVALID", "query.examples.positive")
    one = search_pb2.Example(image_id="east")
    for side in ("positive", "negative"):
        path = f"query.examples.{side}"
        # One positive example is required; it is the second one if the first is invalid.
        beside = {"query.examples.positive": [one]} if side == "negative" else {}
        yield Row(method, path, [one] * 33, BAD, "EXAMPLES_INVALID", None, beside)
        yield Row(method, path, [search_pb2.Example()], BAD, "QUERY_MISSING", f"{path}[0]", beside)
        yield Row(method, f"{path}[0].image_id", "nobody", NONE, "IMAGE_NOT_FOUND", None, beside)
        yield Row(method, f"{path}[0].image_id", "", BAD, "ID_INVALID", None, beside)
        yield Row(
            method,
            f"{path}[0].embedding",
            vector(1),
            BAD,
            "VECTOR_DIMENSION_MISMATCH",
            f"{path}[0].embedding.values",
            beside,
        )
        yield Row(method, f"{path}[0].image", types_pb2.EncodedImage(), UNFIT, "COLLECTION_WITHOUT_MODEL", None, beside)
    yield from pages(method, "limit")
    yield Row(method, "min_score", NAN, BAD, "MIN_SCORE_INVALID")
    yield from filters(method)
    for bad in ("", "1a", "a" * 129):
        yield Row(method, "group_by.attribute", bad, BAD, "GROUP_BY_INVALID")
    for size in (-1, 101):
        yield Row(method, "group_by.group_size", size, BAD, "GROUP_BY_INVALID", None, {"group_by.attribute": "a"})
    yield from enums(method, "view", "consistency")
    yield Row(method, "parameters.ef", 99, BAD, "SEARCH_PARAMETERS_INVALID", None, {"collection": DISK})
    for ef in (0, 9, 32769):
        yield Row(method, "parameters.ef", ef, BAD, "SEARCH_PARAMETERS_INVALID", None, {"collection": GRAPH})
    yield Row(method, "parameters.nprobe", 4, BAD, "SEARCH_PARAMETERS_INVALID")
    yield Row(method, "parameters.search_list", 99, BAD, "SEARCH_PARAMETERS_INVALID")
    for candidates in (0, 9, 201):
        yield Row(
            method, "parameters.search_list", candidates, BAD, "SEARCH_PARAMETERS_INVALID", None, {"collection": DISK}
        )
    for candidates in (-1, 9, 10_001):
        yield Row(method, "coarse.candidates", candidates, BAD, "SEARCH_PARAMETERS_INVALID")
    yield from enums(method, "match")
    for match in (search_pb2.MATCH_REGIONS, search_pb2.MATCH_ALL):
        yield Row(method, "match", match, UNFIT, "REGIONS_MISSING")
        coarse = {"collection": PARTS, "coarse.candidates": 100}
        yield Row(method, "match", match, BAD, "SEARCH_PARAMETERS_INVALID", None, coarse)
    yield Row(method, "query.auto_crop", True, BAD, "AUTO_CROP_INVALID", None, {"collection": PARTS})
    picture = {"collection": PHOTOS, "query.image.content": PICTURE}
    yield Row(method, "query.auto_crop", True, UNFIT, "REGIONS_MISSING", None, picture)
    box = picture | {"query.image.region.x1": 1, "query.image.region.y1": 1}
    yield Row(method, "query.auto_crop", True, BAD, "AUTO_CROP_INVALID", None, box)
    yield Row("SearchStream", "request_id", "x" * 129, BAD, "REQUEST_ID_TOO_LONG")
    yield Row("SearchStream", "request", search_pb2.SearchRequest(collection=PLAIN), BAD, "QUERY_MISSING", "query")
    yield Row("SearchStream", "request.limit", 1001, BAD, "LIMIT_INVALID", "limit")


ROWS = [*collections(), *images(), *searches()]

# Every value of these is valid.
ANYTHING_GOES = {
    "CreateCollectionRequest.validate_only",
    "GetCollectionRequest.with_stats",
    "DeleteImagesRequest.validate_only",
    "WriteImagesRequest.keep_attributes",
    "WriteImagesRequest.report_replaced",
    "SearchRequest.include_query",
    "SearchRequest.explain",
    "SearchRequest.with_next_page",
    "FinishReindexRequest.allow_fewer",
    "SearchParameters.exact",
    "FilterValue.bool_value",
    "FilterValue.integer_value",
    # Ignored on input.
    "Collection.create_time",
    "Image.content_sha256",
    "Image.create_time",
    "Image.update_time",
    "Image.embedding",
    "Image.region",
    "Image.regions",
}


def set_field(message: Any, path: str, value: Any) -> None:
    """Set the field at a path such as "query.examples.positive[0].image_id"; None clears it."""
    *parents, last = path.split(".")
    for part in parents:
        name, _, index = part.partition("[")
        message = getattr(message, name)
        if index:
            if not len(message):
                message.add()
            message = message[int(index[:-1])]
        else:
            message.SetInParent()
    if value is None:
        message.ClearField(last)
        return
    descriptor = message.DESCRIPTOR.fields_by_name[last]
    if isinstance(value, dict):
        is_of_messages = descriptor.message_type.fields_by_name["value"].message_type is not None
        for key, item in value.items():
            if is_of_messages:
                getattr(message, last)[key].CopyFrom(item)
            else:
                getattr(message, last)[key] = item
    elif isinstance(value, Message):
        getattr(message, last).CopyFrom(value)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        message.ClearField(last)
        getattr(message, last).extend(value)
    else:
        setattr(message, last, value)


def fields_of(descriptor: Descriptor, seen: set[str]) -> set[str]:
    """Return every field of a request's message and of the messages inside, as "Message.field"."""
    found: set[str] = set()
    if descriptor.full_name in seen:
        return found
    seen.add(descriptor.full_name)
    for one in descriptor.fields:
        found.add(f"{descriptor.name}.{one.name}")
        inner = one.message_type
        if inner is not None and inner.file.package.startswith("imagesearch.") and not inner.GetOptions().map_entry:
            found |= fields_of(inner, seen)
    return found


def covered_by(row: Row) -> Iterator[str]:
    """Return the fields on a row's path, and those inside the value that the row sets."""
    descriptor = METHODS[row.method].input_type
    for part in re.sub(r"\[\d+]", "", row.path).split("."):
        one = descriptor.fields_by_name[part]
        yield f"{descriptor.name}.{part}"
        descriptor = one.message_type
    for value in row.value if isinstance(row.value, list) else [row.value]:
        if isinstance(value, Message) and value.DESCRIPTOR.file.package.startswith("imagesearch."):
            for one, _ in value.ListFields():
                yield f"{value.DESCRIPTOR.name}.{one.name}"
    if isinstance(row.value, dict):
        for value in row.value.values():
            if isinstance(value, image_pb2.AttributeValue):
                yield from (f"AttributeValue.{one.name}" for one, _ in value.ListFields())
                if value.HasField("string_list_value"):
                    yield "StringList.values"


def test_table_has_every_field_of_every_request() -> None:
    assert {row.method for row in ROWS} == METHODS.keys()
    wanted: set[str] = set()
    for method in METHODS.values():
        wanted |= fields_of(method.input_type, set())
    covered = {name for row in ROWS for name in covered_by(row)}
    assert wanted - covered - ANYTHING_GOES == set()
    assert wanted >= ANYTHING_GOES


@pytest.fixture(scope="module", autouse=True)
def filled(search_address: str) -> None:
    with Client(search_address, timeout=60) as client:
        client.create_collection(PLAIN, dimension=4, fingerprint="f")
        client.create_collection(GRAPH, dimension=4, fingerprint="f", index=Index.HNSW)
        client.create_collection(DISK, dimension=4, fingerprint="f", index=Index.DISKANN)
        client.create_collection(PARTS, dimension=4, fingerprint="f", max_regions=2)
        client.create_collection(PHOTOS)
        (result,) = client.write(PLAIN, [NewImage("east", Embedding([1, 0, 0, 0], "f"))])
        assert result.error is None


def call(channel: grpc.Channel, method: str, request: Any) -> ServiceError | None:
    """Return the error of a call, or of the one item of a stream; None if it succeeds."""
    descriptor = METHODS[method]
    stub = getattr(STUBS[descriptor.containing_service.name](channel), method)
    if method in ("WriteImages", "SearchStream"):
        (response,) = stub(iter([request]), timeout=60)
        return from_status(response.error) if response.WhichOneof("result") == "error" else None
    stub(request, timeout=60)
    return None


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_request_with_one_invalid_field_is_rejected(channel: grpc.Channel, refusal: Refused, row: Row) -> None:
    request = type(GOOD[row.method])()
    request.CopyFrom(GOOD[row.method])
    for path, value in row.beside.items():
        set_field(request, path, value)
    set_field(request, row.path, row.value)
    if row.method in ("WriteImages", "SearchStream"):
        error = call(channel, row.method, request)
        assert error is not None
        code, reason, named = code_of(error).name, error.reason, error.field
    else:
        refused = refusal(lambda: call(channel, row.method, request))
        assert refused.info.domain == "search.imagesearch"
        code, reason, named = refused.code.name, refused.info.reason, ",".join(refused.fields)
        assert len(refused.message) > len(named)
    assert (code, reason) == (row.code, row.reason)
    if row.named == ANY:
        assert named.startswith("attributes")
    else:
        assert named == (row.named or row.path)


@pytest.mark.parametrize(
    "method",
    sorted(
        GOOD.keys() - {"DeleteCollection", "UpdateImage", "DeleteImages", "DeleteAlias", "HoldWrites", "FinishReindex"}
    ),
)
def test_requests_of_the_table_are_valid_otherwise(channel: grpc.Channel, method: str) -> None:
    assert call(channel, method, GOOD[method]) is None
