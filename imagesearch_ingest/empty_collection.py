"""What commands that read a whole collection report if it has no images."""

from imagesearch_client.filters import Filter


def no_images(collection: str, where: Filter | None) -> str:
    """Return the error message for a collection without images; nothing is written then."""
    if where is None:
        return f"collection {collection} has no images; load some first. No file was written"
    return f"no image of collection {collection} matches the filter; change --where. No file was written"
