"""Free memory goes back to the system."""

import platform
import subprocess
import sys

import pytest

IMAGES = """
import sys
from embedder_service.adapters import memory

if sys.argv[1] == "unmap":
    memory.unmap_large_blocks()
# By default glibc keeps blocks of less than this from now on.
del [bytearray(16 * 2**20)][0]
before = memory.resident_bytes()
images, small = [], []
for _ in range(60):
    images.append(b"1" * (5 * 2**20))
    small.append(b"1" * 100_000)
images.clear()
print((memory.resident_bytes() - before) // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt(3) is glibc's")
def test_large_blocks_are_returned_when_they_are_free_whatever_lies_between_them() -> None:
    kept = subprocess.run([sys.executable, "-c", IMAGES, "unmap"], capture_output=True, text=True, check=True).stdout
    assert int(kept) < 30
