"""The default number of candidates of searches of regions."""

import pytest

from search_service.adapters.milvus_search import search_parameters
from search_service.adapters.region_search import CANDIDATES_PER_REGION, MIN_CANDIDATES
from search_service.core.ports import Nearest
from search_service.core.region_searches import REGIONS_PER_IMAGE
from search_service.core.types import Consistency, Index, IndexType, SearchParameters, View


@pytest.mark.parametrize(("kind", "name"), [(IndexType.HNSW, "ef"), (IndexType.DISKANN, "search_list")])
@pytest.mark.parametrize("images", [1, 11, 100, 1001])
def test_a_search_of_regions_has_the_documented_candidates_for_its_images(
    kind: IndexType, name: str, images: int
) -> None:
    regions = Nearest(images * REGIONS_PER_IMAGE, View.ID, Consistency.BOUNDED)
    candidates = search_parameters(Index(kind), regions, CANDIDATES_PER_REGION, MIN_CANDIDATES)[name]
    assert candidates == max(64, regions.limit)


def test_the_candidates_of_the_caller_stay() -> None:
    asked = Nearest(66, View.ID, Consistency.BOUNDED, parameters=SearchParameters(ef=500))
    assert search_parameters(Index(IndexType.HNSW), asked, CANDIDATES_PER_REGION, MIN_CANDIDATES) == {"ef": 500}
