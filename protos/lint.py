"""Checks the contracts' style and layout with buf: `python -m protos.lint`.

buf would fetch google/rpc/status.proto from its registry. It is given the compiled contracts instead, which protoc
makes with the copy that googleapis-common-protos ships, so that no network is needed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

from protos.generate import PROTOS, include_paths

BUF = Path(sys.executable).parent / "buf"


def compile_contracts(image: Path) -> None:
    """Writes a FileDescriptorSet of every contract and what it imports, with comments, to `image`."""
    includes = [f"-I{path}" for path in (PROTOS, *include_paths())]
    contracts = sorted(str(path) for path in (PROTOS / "imagesearch").rglob("*.proto"))
    options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"]
    if protoc.main(["protoc", *includes, *options, *contracts]) != 0:
        sys.exit("protoc failed")


def main() -> None:
    """Exits non-zero where buf finds fault."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "contracts.binpb"
        compile_contracts(image)
        lint = subprocess.run([BUF, "lint", image, "--config", "buf.yaml"], cwd=PROTOS.parent, check=False)
    form = subprocess.run([BUF, "format", "protos", "--diff", "--exit-code"], cwd=PROTOS.parent, check=False)
    if lint.returncode or form.returncode:
        sys.exit("buf found fault with the contracts")
    print("buf: contracts lint clean and formatted")


if __name__ == "__main__":
    main()
