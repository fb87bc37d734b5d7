"""The blocking clients of the search service and of the embedder service."""

from imagesearch_client import environment
from imagesearch_client.blocking.codes import CodeCalls
from imagesearch_client.blocking.collections import CollectionCalls
from imagesearch_client.blocking.embeddings import EmbedderCalls
from imagesearch_client.blocking.images import ImageCalls
from imagesearch_client.blocking.searches import SearchCalls
from imagesearch_client.defaults import (
    DEFAULT_EMBEDDER,
    DEFAULT_TARGET,
    REPEATABLE_EMBEDDER_CALLS,
    REPEATABLE_SEARCH_CALLS,
)


class Client(CollectionCalls, ImageCalls, SearchCalls, CodeCalls):
    """A client of the search service. Every method raises `ServiceError`.

    Any number of threads can share a client. It holds one channel, which reconnects by itself: keep it.
    """

    default_target = DEFAULT_TARGET
    target_variable = environment.TARGET
    token_variable = environment.TOKEN
    repeatable = REPEATABLE_SEARCH_CALLS


class EmbedderClient(EmbedderCalls):
    """A client of the embedder service. Every method raises `ServiceError`.

    Any number of threads can share a client. It holds one channel, which reconnects by itself: keep it.
    """

    default_target = DEFAULT_EMBEDDER
    target_variable = environment.EMBEDDER
    token_variable = environment.EMBEDDER_TOKEN
    repeatable = REPEATABLE_EMBEDDER_CALLS
