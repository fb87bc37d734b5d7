"""Check the contracts' style, layout and names with buf and protoc: `python -m protos.lint`.

It compiles protos/ alone, as users do: without Python packages and without buf's registry.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protos.generate import PROTOS, compile_with
from protos.languages import faults

BUF = Path(sys.executable).parent / "buf"
# Unchanged files of Google and gRPC. buf.yaml excludes them too.
OTHERS = ("google", "grpc")


def compiled_contracts() -> FileDescriptorSet:
    """Return every contract and its imports."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "contracts.binpb"
        compile_with("--include_imports", f"--descriptor_set_out={image}")
        return FileDescriptorSet.FromString(image.read_bytes())


def main() -> None:
    """Exit non-zero if buf reports a fault or class names clash."""
    lint = subprocess.run([BUF, "lint", PROTOS], check=False)
    others = [f"--exclude-path={PROTOS / name}" for name in OTHERS]
    form = subprocess.run([BUF, "format", PROTOS, "--diff", "--exit-code", *others], check=False)
    if lint.returncode or form.returncode:
        sys.exit("buf reports faults in the contracts")
    if found := faults(compiled_contracts()):
        sys.exit("other languages cannot generate code from the contracts:\n" + "\n".join(found))
    print("buf: the contracts are formatted and have no faults; their names are unique in all languages")


if __name__ == "__main__":
    main()
