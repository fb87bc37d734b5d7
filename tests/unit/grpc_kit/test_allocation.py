"""Failed allocations are distinguished from bad input, which C libraries report in the same way."""

import json
import subprocess
import sys

from grpc_kit.server import allocation

# Parses messages with limited address space; prints the exceptions, and whether an allocation failed.
PARSE = """
import json, re, resource
from pathlib import Path
from google.protobuf.message import DecodeError
from imagesearch.embedder.v1 import embedder_pb2
from imagesearch.types.v1 import encoded_image_pb2
from grpc_kit.server import allocation

def outcome(raw):
    allocation.clear_failures()
    try:
        embedder_pb2.EmbedRequest.FromString(raw)
    except (DecodeError, MemoryError) as error:
        return type(error).__name__, allocation.has_failed()
    return "parsed", allocation.has_failed()

raw = embedder_pb2.EmbedRequest(image=encoded_image_pb2.EncodedImage(content=bytes(64_000_000))).SerializeToString()
bad = b"\\xff\\xff\\xff"
found = [outcome(bad)]
used = int(re.search(r"VmSize:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 8_000_000, resource.RLIM_INFINITY))
found.append(outcome(raw))
found.append(outcome(bad))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
found.append(outcome(raw))
print(json.dumps(found))
"""


def test_a_failed_allocation_is_distinguished_from_a_bad_message() -> None:
    done = subprocess.run([sys.executable, "-c", PARSE], capture_output=True, check=True, text=True)
    bad, refused, bad_then, parsed = json.loads(done.stdout.splitlines()[-1])
    assert bad == bad_then == ["DecodeError", False]
    assert refused in (["DecodeError", True], ["MemoryError", True])
    assert parsed == ["parsed", False]


def test_earlier_failures_are_cleared() -> None:
    allocation.clear_failures()
    assert not allocation.has_failed()
