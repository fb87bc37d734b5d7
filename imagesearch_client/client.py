"""A typed client of the search service."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, Unpack

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from imagesearch.search.v1 import (
    codes_pb2,
    codes_pb2_grpc,
    collection_pb2,
    collection_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)

from grpc_kit.channel import open_blocking_channel
from grpc_kit.credentials import ClientTls
from grpc_kit.errors import ResourceExhaustedError, ServiceError
from grpc_kit.health import is_serving
from grpc_kit.status import from_rpc_error, from_status
from imagesearch_client.converters import (
    CONSISTENCY_NUMBERS,
    METRIC_NUMBERS,
    attributes_to,
    check_at_least_one,
    check_filter,
    check_options,
    code_set_from,
    code_set_status_from,
    code_transform_to,
    collection_from,
    encoding_from,
    explanation_from,
    hit_from,
    image_from,
    index_to,
    search_request,
    write_request,
    write_result,
)
from imagesearch_client.defaults import DEFAULT_TARGET, MAX_IDS, MAX_MESSAGE_BYTES, MAX_PAGE
from imagesearch_client.filters import Filter
from imagesearch_client.outgoing import Outgoing
from imagesearch_client.types import (
    AttributeValue,
    CodeSet,
    CodesStatus,
    Collection,
    Consistency,
    Embedding,
    Encoding,
    Explanation,
    Hit,
    Image,
    ImageFile,
    Index,
    IndexParameters,
    Metric,
    NewImage,
    Query,
    Region,
    SearchOptions,
    StoredImage,
    WriteResult,
)

Ids = TypeVar("Ids", bound=Iterable[str])
# Hits of the first page of all that there are.
FIRST_PAGE = 10
# Named here, because within the class `list` is a method.
Hits: TypeAlias = list[Hit]
Page: TypeAlias = tuple[list[Image], str]
# Calls that change nothing. No streams: gRPC for Python can hang when it repeats one whose requests are all read.
REPEATABLE = (
    "imagesearch.search.v1.SearchService/Search",
    "imagesearch.search.v1.CollectionService/GetCollection",
    "imagesearch.search.v1.CollectionService/ListCollections",
    "imagesearch.search.v1.CollectionService/ListAliases",
    "imagesearch.search.v1.CodeService/GetCodes",
    "imagesearch.search.v1.ImageService/GetImage",
    "imagesearch.search.v1.ImageService/GetImages",
    "imagesearch.search.v1.ImageService/ListImages",
    "imagesearch.search.v1.ImageService/CountImages",
    # Twice is as once: it says what the attributes should be.
    "imagesearch.search.v1.ImageService/UpdateImage",
)


class Client:
    """Calls the search service. Every method raises `grpc_kit.errors.ServiceError`, by its meaning.

    A client is safe to share between threads, and cheap to keep: it holds one channel, which reconnects by itself.
    """

    def __init__(
        self, target: str = DEFAULT_TARGET, *, timeout: float = 30.0, tls: ClientTls | None = None, token: str = ""
    ) -> None:
        """Connects when first used.

        Args:
            target: HOST:PORT, or a gRPC name such as "dns:///search:50052", whose addresses are then used in turn.
            timeout: seconds for each call; writing has none, because it lasts as long as there are images.
            tls: how the service is called over TLS; None is plain text.
            token: shown with each call; it needs TLS.

        Raises CredentialsError where a file cannot be used.
        """
        self.target = target
        self._timeout = timeout
        self._channel = open_blocking_channel(target, MAX_MESSAGE_BYTES, REPEATABLE, tls=tls, token=token)
        self._collections = collection_pb2_grpc.CollectionServiceStub(self._channel)
        self._images = image_pb2_grpc.ImageServiceStub(self._channel)
        self._searches = search_pb2_grpc.SearchServiceStub(self._channel)
        self._codes = codes_pb2_grpc.CodeServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def is_serving(self) -> bool:
        """Whether the service says that it serves."""
        with _named_errors():
            return is_serving(self._channel, self._timeout)

    def create_collection(
        self,
        name: str,
        *,
        model: str = "",
        dimension: int = 0,
        fingerprint: str = "",
        metric: Metric = Metric.COSINE,
        index: Index | None = None,
        index_parameters: IndexParameters | None = None,
        consistency: Consistency = Consistency.BOUNDED,
        ttl: timedelta | None = None,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        validate_only: bool = False,
    ) -> Collection:
        """Makes a collection for the embedder's default model, or for another one.

        With both `dimension` and `fingerprint` and no model it holds vectors that are made elsewhere. `ttl` is how long
        an image is kept after its last change; None is for ever. With `validate_only` the service checks everything and
        makes nothing.
        """
        collection = collection_pb2.Collection(
            name=name,
            model=model,
            dimension=dimension,
            fingerprint=fingerprint,
            # Their texts, such as "ip", will do too.
            metric=METRIC_NUMBERS[Metric(metric)],
            index=index_to(None if index is None else Index(index), index_parameters),
            consistency=CONSISTENCY_NUMBERS[Consistency(consistency)],
            description=description,
            labels=labels,
        )
        if ttl is not None:
            collection.ttl.FromTimedelta(ttl)
        with _named_errors():
            response = self._collections.CreateCollection(
                collection_pb2.CreateCollectionRequest(collection=collection, validate_only=validate_only),
                timeout=self._timeout,
            )
        return collection_from(response.collection)

    def get_collection(self, name: str) -> Collection:
        """Describes a collection."""
        with _named_errors():
            response = self._collections.GetCollection(
                collection_pb2.GetCollectionRequest(name=name), timeout=self._timeout
            )
        return collection_from(response.collection)

    def list_collections(self) -> Iterator[Collection]:
        """Every collection, by name."""
        token = ""
        while True:
            request = collection_pb2.ListCollectionsRequest(page_token=token)
            with _named_errors():
                response = self._collections.ListCollections(request, timeout=self._timeout)
            yield from map(collection_from, response.collections)
            token = response.next_page_token
            if not token:
                return

    def delete_collection(self, name: str) -> None:
        """Removes a collection with its images."""
        with _named_errors():
            self._collections.DeleteCollection(collection_pb2.DeleteCollectionRequest(name=name), timeout=self._timeout)

    def write(self, collection: str, images: Iterable[NewImage]) -> Iterator[WriteResult]:
        """Writes images; gives one result for each, an error of one never stops the others.

        A result without an error means that the image is stored and survives a crash. Images are taken as fast as they
        are embedded, so any number can be given without holding them in memory; `images` is read in another thread, and
        what it raises is raised here once all that came before is answered. Where the service goes away, what has no
        result by then may be stored or not: write it again.
        """
        outgoing = Outgoing(
            images,
            lambda _, image: write_request(image, collection),
            lambda _, image, error: WriteResult(image.id, error),
            MAX_MESSAGE_BYTES,
        )
        responses = self._images.WriteImages(outgoing.requests())
        try:
            with _named_errors():
                for response in responses:
                    yield from outgoing.take_refused()
                    yield write_result(response)
            yield from outgoing.take_refused()
            if outgoing.broken is not None:
                raise outgoing.broken
        finally:
            # Where the caller stops asking for results.
            responses.cancel()

    def get(self, collection: str, image_id: str, *, with_vector: bool = False, strong: bool = False) -> Image:
        """Reads one image; `strong` sees every write that was acknowledged before."""
        view = image_pb2.IMAGE_VIEW_FULL if with_vector else image_pb2.IMAGE_VIEW_BASIC
        request = image_pb2.GetImageRequest(
            collection=collection, id=image_id, view=view, consistency=_consistency(strong=strong)
        )
        with _named_errors():
            return image_from(self._images.GetImage(request, timeout=self._timeout).image)

    def get_many(
        self, collection: str, ids: Iterable[str], *, with_vector: bool = False, strong: bool = False
    ) -> dict[str, Image]:
        """Reads any number of images; those that exist, by id and in the order of the ids. `strong` as with `get`."""
        found = self.get_each(collection, ids, with_vector=with_vector, strong=strong)
        return {image_id: image for image_id, image in found if image is not None}

    def get_each(
        self, collection: str, ids: Iterable[str], *, with_vector: bool = False, strong: bool = False
    ) -> Iterator[tuple[str, Image | None]]:
        """Reads images as they are asked for: each id once and in their order, with its image or None.

        One call reads up to 1,000 images, or fewer if the answer would be too large.
        """
        view = image_pb2.IMAGE_VIEW_FULL if with_vector else image_pb2.IMAGE_VIEW_BASIC
        consistency = _consistency(strong=strong)

        def read(part: Sequence[str]) -> Iterator[tuple[str, Image | None]]:
            request = image_pb2.GetImagesRequest(collection=collection, ids=part, view=view, consistency=consistency)
            try:
                with _named_errors():
                    response = self._images.GetImages(request, timeout=self._timeout)
            except ResourceExhaustedError as error:
                if error.reason != "ANSWER_TOO_LARGE" or len(part) == 1:
                    raise
                middle = len(part) // 2
                yield from read(part[:middle])
                yield from read(part[middle:])
                return
            found = {message.id: image_from(message) for message in response.images}
            yield from ((image_id, found.get(image_id)) for image_id in part)

        return chain.from_iterable(map(read, _parts(ids)))

    def list(
        self,
        collection: str,
        *,
        where: Filter | None = None,
        latest_first: bool = False,
        with_vector: bool = False,
        page_size: int = 100,
        strong: bool = False,
    ) -> Iterator[Image]:
        """Every image that fits, page by page: by id, or the most recently changed first. `strong` as with `get`."""
        return self._pages(
            _list_request(
                collection,
                where,
                page_size,
                latest_first=latest_first,
                with_vector=with_vector,
                strong=strong,
            )
        )

    def list_page(
        self,
        collection: str,
        *,
        page_token: str = "",
        where: Filter | None = None,
        latest_first: bool = False,
        with_vector: bool = False,
        page_size: int = 100,
        strong: bool = False,
    ) -> Page:
        """One page of `list`, and the token of the next one; it is empty for the first page, and after the last one.

        A token stays valid as long as the collection is there, and only for a call with the same arguments, though with
        any `page_size`.
        """
        request = _list_request(
            collection, where, page_size, latest_first=latest_first, with_vector=with_vector, strong=strong
        )
        request.page_token = page_token
        with _named_errors():
            response = self._images.ListImages(request, timeout=self._timeout)
        return [image_from(image) for image in response.images], response.next_page_token

    def _pages(self, request: image_pb2.ListImagesRequest) -> Iterator[Image]:
        while True:
            with _named_errors():
                response = self._images.ListImages(request, timeout=self._timeout)
            yield from map(image_from, response.images)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def update(
        self,
        collection: str,
        image_id: str,
        *,
        uri: str | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        remove: Sequence[str] = (),
    ) -> Image:
        """Changes an image and keeps its vector; gives it as it is now.

        Args:
            collection: its collection.
            image_id: the image.
            uri: its new one; None keeps it.
            attributes: those to set; all others stay.
            remove: names of attributes to remove.
        """
        changed = dict(attributes or {})
        if both := changed.keys() & set(remove):
            raise ValueError(f"{', '.join(sorted(both))}: to be set and to be removed")
        paths = [f"attributes.{name}" for name in (*changed, *remove)] + (["uri"] if uri is not None else [])
        image = image_pb2.Image(id=image_id, uri=uri or "", attributes=attributes_to(changed))
        request = image_pb2.UpdateImageRequest(collection=collection, image=image, update_mask=FieldMask(paths=paths))
        with _named_errors():
            return image_from(self._images.UpdateImage(request, timeout=self._timeout).image)

    def delete(
        self,
        collection: str,
        ids: Iterable[str],
        *,
        dry_run: bool = False,
        tell: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Removes any number of images, or with `dry_run` only counts them; the number of those that existed.

        One call removes up to 1,000 images. `tell` is told the number so far after each. If one fails, those before it
        have done their work: the error's metadata has their images as "deleted_count".
        """
        requests = (
            image_pb2.DeleteImagesRequest(
                collection=collection, ids=image_pb2.ImageIds(ids=part), validate_only=dry_run
            )
            for part in _parts(ids)
        )
        deleted = 0
        for request in requests:
            deleted = self._delete(request, deleted, tell)
        return deleted

    def delete_where(
        self,
        collection: str,
        where: Filter,
        *,
        dry_run: bool = False,
        tell: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Removes the images that fit, or with `dry_run` only counts them; their number.

        One call removes up to 1,000 images; `tell` and the error of one that fails are as with `delete`. The same call
        again removes the rest.
        """
        check_filter(where)
        most = 0 if dry_run else MAX_IDS
        request = image_pb2.DeleteImagesRequest(
            collection=collection, filter=where, validate_only=dry_run, max_count=most
        )
        deleted = 0
        while True:
            before, deleted = deleted, self._delete(request, deleted, tell)
            # A call that removes fewer than it may has removed the last.
            if dry_run or deleted - before < MAX_IDS:
                return deleted

    def _delete(self, request: image_pb2.DeleteImagesRequest, before: int, tell: Callable[[int], None]) -> int:
        """Removes images; the number of these and those before."""
        try:
            with _named_errors():
                deleted = before + self._images.DeleteImages(request, timeout=self._timeout).deleted_count
        except ServiceError as error:
            error.metadata["deleted_count"] = str(before)
            raise
        tell(deleted)
        return deleted

    def count(self, collection: str, *, where: Filter | None = None) -> int:
        """The number of images, or of those that fit."""
        check_filter(where)
        request = image_pb2.CountImagesRequest(collection=collection, filter=where)
        with _named_errors():
            return self._images.CountImages(request, timeout=self._timeout).count

    def search(self, collection: str, query: Query, **options: Unpack[SearchOptions]) -> Hits:
        """The images most like a query."""
        request = search_request(collection, query, options)
        with _named_errors():
            response = self._searches.Search(request, timeout=self._timeout)
        return [hit_from(hit) for hit in response.hits]

    def search_explained(
        self, collection: str, query: Query, **options: Unpack[SearchOptions]
    ) -> tuple[Hits, Explanation]:
        """As `search`, and how it was answered."""
        request = search_request(collection, query, options)
        request.explain = True
        with _named_errors():
            response = self._searches.Search(request, timeout=self._timeout)
        return [hit_from(hit) for hit in response.hits], explanation_from(response.explanation)

    def search_by_image(
        self, collection: str, content: bytes, *, region: Region | None = None, **options: Unpack[SearchOptions]
    ) -> Hits:
        """The images most like the one whose file is given."""
        return self.search(collection, ImageFile(content, region), **options)

    def search_by_id(self, collection: str, image_id: str, **options: Unpack[SearchOptions]) -> Hits:
        """The images most like a stored one, which is not among them."""
        return self.search(collection, StoredImage(image_id), **options)

    def search_by_vector(self, collection: str, embedding: Embedding, **options: Unpack[SearchOptions]) -> Hits:
        """The images whose vectors are nearest to one."""
        return self.search(collection, embedding, **options)

    def search_all(self, collection: str, query: Query, **options: Unpack[SearchOptions]) -> Iterator[Hit]:
        """Every image of the collection, or all that fit, the most alike first; read page by page of `limit`.

        With `coarse` these are the candidates only.

        Raises TypeError with `group_by`: hits in groups have one page, which `search` gives.
        """
        request = search_request(collection, query, options)
        if request.HasField("group_by"):
            raise TypeError("hits in groups have one page, which search gives")
        return self._hits(request)

    def _hits(self, request: search_pb2.SearchRequest) -> Iterator[Hit]:
        size = request.limit
        # An index that is not exact can only miss hits of the first page, and misses next to none of a few. Whoever
        # says how many candidates there are is told at once where they are too few for a page.
        parameters = request.parameters
        stated = parameters.HasField("ef") or parameters.HasField("search_list") or request.HasField("coarse")
        if size and not stated:
            request.limit = min(size, FIRST_PAGE)
        request.with_next_page = True
        while True:
            with _named_errors():
                response = self._searches.Search(request, timeout=self._timeout)
            yield from map(hit_from, response.hits)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token
            request.limit = size

    def search_many(
        self, collection: str, queries: Iterable[Query], **options: Unpack[SearchOptions]
    ) -> Iterator[tuple[int, Hits | ServiceError]]:
        """Answers many queries over one call: the number of the query, and its hits or what is wrong with it.

        In any order. `queries` is read in another thread, as fast as they are answered; what it raises is raised here
        once all that came before is answered.
        """
        check_options(options)
        outgoing: Outgoing[Query, search_pb2.SearchStreamRequest, tuple[int, Hits | ServiceError]] = Outgoing(
            queries,
            lambda number, query: search_pb2.SearchStreamRequest(
                request_id=str(number), request=search_request(collection, query, options)
            ),
            lambda number, _, error: (number, error),
            MAX_MESSAGE_BYTES,
        )
        return self._answers(outgoing)

    def _answers(
        self, outgoing: Outgoing[Query, search_pb2.SearchStreamRequest, tuple[int, Hits | ServiceError]]
    ) -> Iterator[tuple[int, Hits | ServiceError]]:
        responses = self._searches.SearchStream(outgoing.requests())
        try:
            with _named_errors():
                for response in responses:
                    yield from outgoing.take_refused()
                    number = int(response.request_id)
                    if response.WhichOneof("result") == "error":
                        yield number, from_status(response.error)
                    else:
                        yield number, [hit_from(hit) for hit in response.response.hits]
            yield from outgoing.take_refused()
            if outgoing.broken is not None:
                raise outgoing.broken
        finally:
            # Where the caller stops asking for results.
            responses.cancel()

    def create_codes(self, collection: str, hyperplanes: Sequence[Sequence[float]]) -> CodeSet:
        """Makes an empty set of binary codes, which `encode_images` fills.

        Args:
            collection: whose images are to have codes; needs a Milvus server.
            hyperplanes: a row for each bit, the normal's components and then the offset, as
                `imagesearch_analysis.codes` fits them.
        """
        request = codes_pb2.CreateCodesRequest(collection=collection, transform=code_transform_to(hyperplanes))
        with _named_errors():
            return code_set_from(self._codes.CreateCodes(request, timeout=self._timeout).codes)

    def encode_images(self, collection: str) -> Iterator[Encoding]:
        """Encodes what has no code yet; gives how far it is, and works as long as it is asked.

        Called again it goes on where it stopped. At the end searches can use the codes.
        """
        responses = self._codes.EncodeImages(codes_pb2.EncodeImagesRequest(collection=collection))
        try:
            with _named_errors():
                for response in responses:
                    yield encoding_from(response)
        finally:
            responses.cancel()

    def get_codes(self, collection: str) -> CodesStatus:
        """The binary codes of a collection."""
        with _named_errors():
            response = self._codes.GetCodes(codes_pb2.GetCodesRequest(collection=collection), timeout=self._timeout)
        return CodesStatus(response.collection, list(map(code_set_status_from, response.sets)), response.image_count)

    def delete_codes(self, collection: str) -> None:
        """Removes all binary codes of a collection."""
        with _named_errors():
            self._codes.DeleteCodes(codes_pb2.DeleteCodesRequest(collection=collection), timeout=self._timeout)

    def set_alias(self, alias: str, collection: str) -> str:
        """Points an alias at a collection, in one step; gives where it pointed before, empty for a new one."""
        wanted = collection_pb2.Alias(name=alias, collection=collection)
        with _named_errors():
            response = self._collections.SetAlias(collection_pb2.SetAliasRequest(alias=wanted), timeout=self._timeout)
        return response.previous_collection

    def list_aliases(self) -> dict[str, str]:
        """The collection of every alias."""
        request = collection_pb2.ListAliasesRequest(page_size=1000)
        aliases: dict[str, str] = {}
        while True:
            with _named_errors():
                response = self._collections.ListAliases(request, timeout=self._timeout)
            aliases |= {alias.name: alias.collection for alias in response.aliases}
            if not response.next_page_token:
                return aliases
            request.page_token = response.next_page_token

    def delete_alias(self, alias: str) -> None:
        """Removes an alias, never its collection."""
        with _named_errors():
            self._collections.DeleteAlias(collection_pb2.DeleteAliasRequest(name=alias), timeout=self._timeout)

    def start_reindex(self, source: str, target: str) -> datetime:
        """Declare that a collection is copied to another one; return since when that is so, by the service's clock.

        From then on whoever deletes an image from `source` deletes it from `target` too. `target` must be empty, or be
        declared already.
        """
        request = collection_pb2.StartReindexRequest(source=source, target=target)
        with _named_errors():
            response = self._collections.StartReindex(request, timeout=self._timeout)
        return response.begin_time.ToDatetime(UTC)

    def hold_writes(self, source: str, duration: timedelta) -> None:
        """Make writers of a collection that is being copied wait, for 5 to 60 seconds at most; 0 lets them go on."""
        request = collection_pb2.HoldWritesRequest(source=source)
        request.duration.FromTimedelta(duration)
        with _named_errors():
            self._collections.HoldWrites(request, timeout=self._timeout)

    def finish_reindex(self, source: str, aliases: Sequence[str], *, allow_fewer: bool = False) -> dict[str, str]:
        """Point aliases at the copy of a collection whose writes are held; return where each pointed before.

        `allow_fewer` allows a copy with fewer images than the collection, though never an empty one.
        """
        request = collection_pb2.FinishReindexRequest(source=source, aliases=_several(aliases), allow_fewer=allow_fewer)
        with _named_errors():
            response = self._collections.FinishReindex(request, timeout=self._timeout)
        return {moved.alias.name: moved.previous_collection for moved in response.moved}

    def cancel_reindex(self, source: str) -> None:
        """End the copying of a collection without moving an alias; the copy stays as it is."""
        with _named_errors():
            self._collections.CancelReindex(collection_pb2.CancelReindexRequest(source=source), timeout=self._timeout)


@contextmanager
def _named_errors() -> Iterator[None]:
    """Raises what a failed call means, instead of gRPC's one error for everything."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None


def _parts(ids: Iterable[str]) -> Iterator[Sequence[str]]:
    """The ids, each once, as many at a time as one call takes. Raises TypeError at once for a single text."""
    distinct = _distinct(_several(ids))
    return iter(lambda: list(islice(distinct, MAX_IDS)), [])


def _distinct(ids: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for image_id in ids:
        if image_id not in seen:
            seen.add(image_id)
            yield image_id


def _several(ids: Ids) -> Ids:
    """The ids; a single text would be taken for as many ids as it has characters."""
    if isinstance(ids, str):
        raise TypeError(f"ids are a list, such as [{ids!r:.60}]")
    return ids


def _list_request(
    collection: str, where: Filter | None, page_size: int, *, latest_first: bool, with_vector: bool, strong: bool
) -> image_pb2.ListImagesRequest:
    check_filter(where)
    check_at_least_one("page_size", page_size, "PAGE_SIZE_INVALID", MAX_PAGE)
    return image_pb2.ListImagesRequest(
        collection=collection,
        filter=where,
        order=image_pb2.IMAGE_ORDER_UPDATE_TIME_DESC if latest_first else image_pb2.IMAGE_ORDER_ID,
        page_size=page_size,
        view=image_pb2.IMAGE_VIEW_FULL if with_vector else image_pb2.IMAGE_VIEW_BASIC,
        consistency=_consistency(strong=strong),
    )


def _consistency(*, strong: bool) -> "collection_pb2.Consistency.ValueType":
    return collection_pb2.CONSISTENCY_STRONG if strong else collection_pb2.CONSISTENCY_UNSPECIFIED
