"""The error of all commands that read a whole collection if it has no images."""

from imagesearch_client.filters import Filter


class EmptyCollectionError(Exception):
    """A collection has no images, or none that matches a filter. Commands write no file then."""

    def __init__(self, collection: str, where: Filter | None) -> None:
        if where is None:
            super().__init__(f"collection {collection} has no images; load images first")
        else:
            super().__init__(f"no image of collection {collection} matches the filter; change --where")
