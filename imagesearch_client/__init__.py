"""The client library: `Client` for programs, the `imagesearch` command for people."""

from grpc_kit.credentials import ClientTls
from grpc_kit.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
    UnimplementedError,
)
from imagesearch_client.client import Client
from imagesearch_client.filters import all_of, any_of, equals, exists, is_in, negated, number, prefix
from imagesearch_client.types import (
    AttributeValue,
    Collection,
    Embedding,
    Hit,
    Image,
    Metric,
    NewImage,
    Region,
    WriteResult,
)

__all__ = [
    "AlreadyExistsError",
    "AttributeValue",
    "Client",
    "ClientTls",
    "Collection",
    "DeadlineExceededError",
    "Embedding",
    "FailedPreconditionError",
    "Hit",
    "Image",
    "InvalidArgumentError",
    "Metric",
    "NewImage",
    "NotFoundError",
    "Region",
    "ResourceExhaustedError",
    "ServiceError",
    "UnavailableError",
    "UnimplementedError",
    "WriteResult",
    "all_of",
    "any_of",
    "equals",
    "exists",
    "is_in",
    "negated",
    "number",
    "prefix",
]
