"""Generate the Python stubs under protos/gen from the contracts: `python -m protos.generate [--check]`.

The stubs are committed. Stubs of google.rpc come from googleapis-common-protos and are not generated here. `--check`
generates the stubs again in a temporary folder and fails if they differ.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).parent
STUBS = PROTOS / "gen"


def compile_with(*arguments: str) -> None:
    """Run protoc on all contracts, with the imports in protos/ and in protoc itself. Exit if protoc fails."""
    contracts = sorted(str(path) for path in (PROTOS / "imagesearch").rglob("*.proto"))
    # protoc runs in its own process because it crashes beside other libraries that contain protobuf.
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *arguments, *contracts]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit("protoc failed")


def generate(target: Path) -> None:
    """Write the stubs of all contracts below `target`: messages, services and their types."""
    # protoc looks for its plugins in PATH; they are installed beside this interpreter.
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{target}" for kind in ("mypy", "mypy_grpc")]
    compile_with(*plugins, *outputs)


def stub_files(folder: Path) -> set[Path]:
    """Return the stub files in a folder, as paths relative to it."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix in {".py", ".pyi"} and "__pycache__" not in path.parts
    }


def check() -> None:
    """Exit with a message if the committed stubs differ from the contracts."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        names = stub_files(fresh) | stub_files(STUBS)
        _, different, missing = filecmp.cmpfiles(fresh, STUBS, [str(name) for name in names], shallow=False)
    if different or missing:
        sys.exit(f"these stubs differ from the contracts; run `make protos`: {', '.join(sorted(different + missing))}")
    print(f"{len(names)} stub files agree with the contracts")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change no file; fail if the stubs are out of date")
    if parser.parse_args().check:
        check()
        return
    shutil.rmtree(STUBS, ignore_errors=True)
    STUBS.mkdir()
    generate(STUBS)
    print(f"wrote {len(stub_files(STUBS))} stub files below {STUBS}")


if __name__ == "__main__":
    main()
