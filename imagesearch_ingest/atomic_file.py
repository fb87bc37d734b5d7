"""Write files that are either complete or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to. It replaces `target` if the block succeeds.

    If `target` is a link, the file to which it points is replaced, and the link stays. Raises OSError. If the block
    fails, the written file is removed, and `target` stays as it was.
    """
    target = target.resolve()
    partial = target.with_name(f".{target.name}.partial")
    try:
        yield partial
        # The content must reach the disk before the name does.
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
