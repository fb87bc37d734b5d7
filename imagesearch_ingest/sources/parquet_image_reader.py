"""Read images in columns of Parquet files by their uris, such as parquet://image/12::/data/train.parquet."""

import errno
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from imagesearch_ingest.sources.archive_reader import ArchiveReader, OpenArchive
from imagesearch_ingest.sources.member_uris import PARQUET
from imagesearch_ingest.sources.parquet_rows import BUFFER, IMAGES, path_and_bytes
from imagesearch_ingest.sources.parquet_values import is_image_type
from imagesearch_ingest.sources.source_file import SourceFile


def image_name(column: str, row: int) -> str:
    """Return the name of an image in its file; rows are numbered from 1."""
    return f"{column}/{row}"


def image_uri(column: str, row: int, file: str) -> str:
    """Return the uri of an image in a Parquet file. `file` is an absolute path or a URL."""
    return f"{PARQUET}://{image_name(column, row)}::{file}"


class _Images:
    """The images of one file as members of a streamed archive."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self._content = b""

    def members(self) -> Iterator[tarfile.TarInfo]:
        schema = self._file.schema_arrow
        for column in [field.name for field in schema if is_image_type(field.type)]:
            row = 0
            for batch in self._file.iter_batches(IMAGES, columns=[column], use_threads=False):
                for value in batch.column(0):
                    row += 1
                    content = path_and_bytes(value.as_py())[1]
                    if content is not None:
                        member = tarfile.TarInfo(image_name(column, row))
                        member.size, self._content = len(content), content
                        yield member

    def is_in_place(self, member: tarfile.TarInfo) -> bool:  # noqa: ARG002 - the signature of OpenArchive
        return False

    def content(self, member: tarfile.TarInfo) -> bytes:  # noqa: ARG002 - as above
        return self._content


class ParquetImageReader(ArchiveReader):
    """Reads images of any number of Parquet files. A file is copied once, and its images are read from the copy."""

    @contextmanager
    def _opened(self, source_file: SourceFile) -> Iterator[OpenArchive]:
        try:
            with source_file.open() as file, pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as parquet:
                yield _Images(parquet)
        except pa.ArrowException as error:
            raise OSError(errno.EIO, " ".join(str(error).split()), source_file.name) from error
