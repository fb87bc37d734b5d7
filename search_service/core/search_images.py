"""Searches: find the vector of a query, and the images nearest to it."""

import time

import numpy as np

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from grpc_kit.server import stages
from search_service.core.coarse_search import FIELD as COARSE
from search_service.core.coarse_search import CoarseSearch, CoarseSearches
from search_service.core.codes import codes_unsupported
from search_service.core.collection_cache import CollectionCache
from search_service.core.nearest_images import NearestImages
from search_service.core.ports import After, Embedder, Nearest, RegionTally, VectorStore
from search_service.core.query_vectors import QueryVectors
from search_service.core.search_checks import check_page, check_parameters, check_regions, check_search
from search_service.core.searches import Examples, Explanation, PageEnd, Search, SearchResult, StoredImageQuery
from search_service.core.types import Collection, Hit, Match, SearchParameters, Vector


class SearchImages:
    """Answer searches."""

    def __init__(
        self, store: VectorStore, embedder: Embedder, cache: CollectionCache, coarse: CoarseSearches | None = None
    ) -> None:
        """Only queries by image need the embedder, and only searches with binary codes need `coarse`."""
        self._store = store
        self._embedder = embedder
        self._cache = cache
        self._coarse = coarse

    async def search(self, search: Search, deadline: Deadline) -> SearchResult:
        """Find the images most similar to a query.

        Raises InvalidArgumentError, NotFoundError, FailedPreconditionError, UnavailableError, DeadlineExceededError,
        and the embedder's errors about a query image.
        """
        began = time.monotonic()
        check_search(search)
        name = search.page.collection if search.page else search.collection
        collection, is_cached = await self._cache.get(name, deadline)
        try:
            return await self._search(search, collection, began, deadline)
        except (NotFoundError, FailedPreconditionError, InvalidArgumentError):
            # The cached description may be outdated: repeat the search if the collection has changed.
            if not is_cached or await self._cache.refresh(name, deadline) == collection:
                raise
        return await self._search(search, await self._cache.refresh(name, deadline), began, deadline)

    async def _search(self, search: Search, collection: Collection, began: float, deadline: Deadline) -> SearchResult:
        check_parameters(search.parameters, collection.index)
        check_page(search.page, collection)
        check_regions(search, collection)
        coarse = self._begin_coarse(search, collection)
        consistency = search.consistency or collection.consistency
        started = time.monotonic()
        region = None
        if search.page:
            vector = search.page.vector
        else:
            vectors = QueryVectors(self._store, self._embedder, collection, consistency, deadline)
            vector, region = await vectors.of(search.query, auto_crop=search.auto_crop)
        embedded = time.monotonic()
        nearest = Nearest(
            # One more hit shows whether another page follows.
            limit=search.limit + 1,
            view=search.view,
            consistency=consistency,
            condition=search.condition,
            parameters=search.parameters,
            after=search.page.after if search.page else None,
            match=search.match,
            tally=None if search.match is Match.IMAGES else RegionTally(),
        )
        images = NearestImages(self._store, collection, vector, deadline, _excluded_ids(search), coarse)
        if search.group_by is not None:
            hits = await images.grouped(nearest, search.group_by, search.limit)
        else:
            hits = await images.best(nearest)
        found = time.monotonic()
        stages.record("store", embedded, found)
        page, end = _page(search, collection, vector, hits)
        explanation = Explanation(
            # A search with binary codes compares the vector of every candidate.
            index=self._store.index_of(collection, SearchParameters(exact=True) if coarse else search.parameters),
            embed_seconds=embedded - started,
            store_seconds=found - embedded,
            total_seconds=time.monotonic() - began,
            coarse=coarse.explanation() if coarse else None,
            regions=nearest.tally,
        )
        return SearchResult(page, collection.fingerprint, end, explanation, region)

    def _begin_coarse(self, search: Search, collection: Collection) -> CoarseSearch | None:
        if search.coarse is None:
            return None
        if self._coarse is None:
            raise codes_unsupported(COARSE)
        return self._coarse.begin(collection, search.coarse + len(_excluded_ids(search)))


def _page(search: Search, collection: Collection, vector: Vector, hits: list[Hit]) -> tuple[list[Hit], PageEnd | None]:
    """Return the hits of this page, and its end if another page follows and the caller wants it."""
    # Callers see scores as float32.
    good = [hit for hit in hits if search.min_score is None or np.float32(hit.score) >= search.min_score]
    page = good[: search.limit]
    if not search.paged or len(good) <= search.limit or search.group_by is not None:
        return page, None
    seen = (search.page.after.seen if search.page else 0) + len(page)
    last = After(page[-1].score, page[-1].distance, page[-1].image.id, seen)
    return page, PageEnd(last, vector, collection.name, collection.create_time)


def _excluded_ids(search: Search) -> frozenset[str]:
    """Return the ids of the stored images in the query, which are no hits unless the caller includes them."""
    if search.include_query:
        return frozenset()
    query = search.query
    examples = (*query.positive, *query.negative) if isinstance(query, Examples) else (query,)
    return frozenset(example.image_id for example in examples if isinstance(example, StoredImageQuery))
