"""Addresses and limits that the clients and the packages on top of them share."""

# Where `make up` and the settings' defaults put the services.
DEFAULT_TARGET = "127.0.0.1:50052"
DEFAULT_EMBEDDER = "127.0.0.1:50051"
# The largest message in either direction.
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
# The most images in one page, and the most ids in one call.
MAX_PAGE = 1000
MAX_IDS = 1000
