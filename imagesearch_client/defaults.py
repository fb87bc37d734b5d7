"""Addresses and limits that the clients and the packages on top of them share."""

# Where `make up` and the settings' defaults put the services.
DEFAULT_TARGET = "127.0.0.1:50052"
DEFAULT_EMBEDDER = "127.0.0.1:50051"
# The largest message in either direction.
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
# The most images in one page, and the most ids in one call.
MAX_PAGE = 1000
MAX_IDS = 1000
# Hits of a search, hits of a group, and candidates of a search by binary codes.
MAX_LIMIT = 1000
MAX_GROUP_SIZE = 100
MAX_CANDIDATES = 10_000

# gRPC repeats these methods by itself: they change nothing, or a second call changes nothing more. It repeats no
# streams, because gRPC for Python can hang when it repeats a stream whose requests were all read.
REPEATABLE_SEARCH_CALLS = (
    "imagesearch.search.v1.SearchService/Search",
    "imagesearch.search.v1.CollectionService/GetCollection",
    "imagesearch.search.v1.CollectionService/ListCollections",
    "imagesearch.search.v1.CollectionService/ListAliases",
    "imagesearch.search.v1.CodeService/GetCodes",
    "imagesearch.search.v1.ImageService/GetImage",
    "imagesearch.search.v1.ImageService/GetImages",
    "imagesearch.search.v1.ImageService/ListImages",
    "imagesearch.search.v1.ImageService/CountImages",
    "imagesearch.search.v1.ImageService/UpdateImage",
)
REPEATABLE_EMBEDDER_CALLS = tuple(
    f"imagesearch.embedder.v1.EmbedderService/{method}"
    for method in ("Embed", "EmbedRegions", "ListModels", "GetModel")
)
# Maximum number of regions of an image.
MAX_REGIONS = 64
