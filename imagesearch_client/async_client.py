"""The asynchronous clients of the search service and of the embedder service."""

from imagesearch_client import environment
from imagesearch_client.aio.codes import CodeCalls
from imagesearch_client.aio.collections import CollectionCalls
from imagesearch_client.aio.embeddings import EmbedderCalls
from imagesearch_client.aio.images import ImageCalls
from imagesearch_client.aio.searches import SearchCalls
from imagesearch_client.defaults import (
    DEFAULT_EMBEDDER,
    DEFAULT_TARGET,
    REPEATABLE_EMBEDDER_CALLS,
    REPEATABLE_SEARCH_CALLS,
)


class AsyncClient(CollectionCalls, ImageCalls, SearchCalls, CodeCalls):
    """A client of the search service for asyncio, with the methods of `Client`. Every method raises `ServiceError`.

    Create it in a running event loop, and use it only there; any number of tasks can share it. Methods that read many
    items accept an iterable or an asynchronous iterable.
    """

    default_target = DEFAULT_TARGET
    target_variable = environment.TARGET
    token_variable = environment.TOKEN
    repeatable = REPEATABLE_SEARCH_CALLS


class AsyncEmbedderClient(EmbedderCalls):
    """A client of the embedder service for asyncio, with the methods of `EmbedderClient`.

    Create it in a running event loop, and use it only there; any number of tasks can share it.
    """

    default_target = DEFAULT_EMBEDDER
    target_variable = environment.EMBEDDER
    token_variable = environment.EMBEDDER_TOKEN
    repeatable = REPEATABLE_EMBEDDER_CALLS
