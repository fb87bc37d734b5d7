"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to, which takes its place once all went well.

    If `target` is a link, the file that it points at is replaced, and the link stays.
    Raises OSError; what was written by then is removed, and `target` is as it was.
    """
    target = target.resolve()
    partial = target.with_name(f".{target.name}.partial")
    try:
        yield partial
        # The name must not reach the disk before the content does.
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_text(target: Path, text: str) -> None:
    """Write a complete text file in UTF-8, or none. Raises OSError."""
    with atomic_write(target) as partial:
        partial.write_text(text, encoding="utf-8")
