"""The rules for search requests."""

from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError
from search_service.core import checks
from search_service.core.coarse_search import FIELD as COARSE
from search_service.core.coarse_search import MAX_CANDIDATES
from search_service.core.examples import MAX_EXAMPLES
from search_service.core.filters import check_filter
from search_service.core.searches import Examples, GroupBy, PageEnd, Search
from search_service.core.types import Collection, EncodedImage, Index, IndexType, Match, SearchParameters

MAX_GROUP_SIZE = 100
# Each search parameter, and the index types that use it.
PARAMETERS = {
    "ef": (IndexType.HNSW, IndexType.AUTOINDEX),
    "nprobe": (IndexType.IVF_FLAT, IndexType.IVF_SQ8),
    "search_list": (IndexType.DISKANN,),
}


def check_search(search: Search) -> None:
    """Raise InvalidArgumentError if a search is invalid for every collection."""
    checks.check_collection_name(search.collection, "collection")
    checks.check_limit(search.limit)
    checks.check_min_score(search.min_score)
    if search.condition is not None:
        check_filter(search.condition)
    if isinstance(search.query, Examples):
        _check_examples(search.query)
    if search.group_by is not None:
        _check_group_by(search.group_by)
    parameters = search.parameters
    for name, value, most in (
        ("ef", parameters.ef, checks.MAX_EF),
        ("search_list", parameters.search_list, _max_search_list(search.limit)),
    ):
        if value is not None and not search.limit <= value <= most:
            raise _parameter_invalid(name, f"is {value}; it must be between {search.limit} (the limit) and {most}")
    if search.coarse is not None:
        _check_coarse(search.coarse, search)
    if search.auto_crop:
        _check_auto_crop(search.query)


def _max_search_list(limit: int) -> int:
    """Return the largest `search_list` that Milvus 2.2 and 2.3 document; later releases accept more."""
    return max(200, 10 * limit)


def _check_auto_crop(query: object) -> None:
    problem = ""
    if not isinstance(query, EncodedImage):
        problem = "query is no image; only an image can be cropped"
    elif query.region is not None:
        problem = "query.image.region is set too; leave one of them out"
    if problem:
        raise InvalidArgumentError(
            "AUTO_CROP_INVALID", f"query.auto_crop is true, and {problem}", field="query.auto_crop"
        )


def check_regions(search: Search, collection: Collection) -> None:
    """Raise FailedPreconditionError if a search needs regions, and the collection has none."""
    if collection.max_regions:
        return
    wishes = {"match": search.match is not Match.IMAGES, "query.auto_crop": search.auto_crop}
    for field, is_set in wishes.items():
        if is_set:
            raise FailedPreconditionError(
                "REGIONS_MISSING",
                f"{field} needs regions, and collection {collection.name} has none; use a collection that was created "
                "with max_regions",
                field=field,
                metadata={"collection": collection.name},
            )


def _check_coarse(candidates: int, search: Search) -> None:
    if search.parameters != SearchParameters():
        raise InvalidArgumentError(
            "SEARCH_PARAMETERS_INVALID",
            "parameters and coarse are both set; a search with binary codes uses no index parameters: leave one out",
            field="parameters",
        )
    if search.match is not Match.IMAGES:
        raise InvalidArgumentError(
            "SEARCH_PARAMETERS_INVALID",
            f"match and {COARSE} are both set; binary codes describe whole images: leave one of them out",
            field="match",
        )
    if not search.limit <= candidates <= MAX_CANDIDATES:
        raise InvalidArgumentError(
            "SEARCH_PARAMETERS_INVALID",
            f"{COARSE}.candidates is {candidates}; it must be between {search.limit} (the limit) and {MAX_CANDIDATES}",
            field=f"{COARSE}.candidates",
        )


def _check_examples(examples: Examples) -> None:
    for name, given, least in (("positive", examples.positive, 1), ("negative", examples.negative, 0)):
        if not least <= len(given) <= MAX_EXAMPLES:
            field = f"query.examples.{name}"
            raise InvalidArgumentError(
                "EXAMPLES_INVALID",
                f"{field} has {len(given)} entries; it must have between {least} and {MAX_EXAMPLES}",
                field=field,
            )


def _check_group_by(group_by: GroupBy) -> None:
    if not checks.ATTRIBUTE_NAME.fullmatch(group_by.attribute):
        raise InvalidArgumentError(
            "GROUP_BY_INVALID",
            f"group_by.attribute is {checks.shown(group_by.attribute)}; it must be {checks.ATTRIBUTE_NAME_RULE}",
            field="group_by.attribute",
        )
    if not 1 <= group_by.size <= MAX_GROUP_SIZE:
        raise InvalidArgumentError(
            "GROUP_BY_INVALID",
            f"group_by.group_size is {group_by.size}; it must be between 1 and {MAX_GROUP_SIZE}",
            field="group_by.group_size",
        )


def check_parameters(parameters: SearchParameters, index: Index) -> None:
    """Raise InvalidArgumentError for a parameter that the index does not use: Milvus would ignore it."""
    for name, kinds in PARAMETERS.items():
        if getattr(parameters, name) is not None and index.type not in kinds:
            users = " and ".join(kind.value for kind in kinds)
            own = next((f"uses {other}" for other, its in PARAMETERS.items() if index.type in its), "uses none")
            raise _parameter_invalid(
                name, f"is for {users}; the index of this collection is {index.type.value}, which {own}"
            )
    if index.ivf is not None and parameters.nprobe is not None and not 1 <= parameters.nprobe <= index.ivf.nlist:
        raise _parameter_invalid("nprobe", f"is {parameters.nprobe}; it must be between 1 and {index.ivf.nlist}")


def check_page(page: PageEnd | None, collection: Collection) -> None:
    """Raise InvalidArgumentError if the page is from an earlier collection of the same name."""
    if page is not None and page.create_time != collection.create_time:
        raise InvalidArgumentError(
            "PAGE_TOKEN_INVALID",
            f"page_token is from a collection {collection.name} that was deleted; another one has its name now: start "
            "again with the first page",
            field="page_token",
        )


def _parameter_invalid(name: str, problem: str) -> InvalidArgumentError:
    field = f"parameters.{name}"
    return InvalidArgumentError("SEARCH_PARAMETERS_INVALID", f"{field} {problem}", field=field)
