"""The base of the VectorStore decorators."""

from search_service.core.ports import VectorStore


class StoreDecorator:
    """Forward the calls that no decorator changes. A subclass adds those on images."""

    def __init__(self, store: VectorStore) -> None:
        """Forward calls to `store`."""
        self._store = store
        self.create_collection = store.create_collection
        self.get_collection = store.get_collection
        self.list_collections = store.list_collections
        self.set_reindex = store.set_reindex
        self.set_alias = store.set_alias
        self.list_aliases = store.list_aliases
        self.delete_alias = store.delete_alias
        self.index_of = store.index_of
        self.check = store.check
