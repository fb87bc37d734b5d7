"""Shows what the embedder would serve from the folder of an encoder: `python -m embedder_service.inspect FOLDER`.

It reads `model.onnx`, `preprocessor_config.json` and, if there is one, `imagesearch.json`, runs the encoder on some
photographs, and prints what it found. The exit code is 1 if the folder cannot be served; the message says what is
missing or wrong.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from embedder_service.adapters.onnx_folder import EncoderFolder, graph_path, read_folder
from embedder_service.adapters.weights_files import WeightsError

# Any name: it is not a part of the fingerprint.
NAME = "encoder"


def report(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what would be served, line by line. Raises WeightsError."""
    encoder = read_folder(folder)
    yield "graph", f"{graph_path(folder)}, {len(encoder.graph) / 1e6:.1f} MB"
    yield "SHA-256", encoder.sha256
    for line in _preparation(encoder):
        yield "pixels", line
    # onnxruntime takes a moment to import, so errors of the files come first.
    from embedder_service.adapters.onnx_model import OnnxModel  # noqa: PLC0415

    model = OnnxModel(NAME, encoder, threads=1, max_batch_size=1)
    graph = model.graph
    layout = "[N, 3, H, W]" if graph.channels_first else "[N, H, W, 3]"
    batch = f"{graph.batch_size} images, always" if graph.batch_size else "any number of images"
    yield "input", f"{graph.input_name}, {graph.element.__name__}, {layout}, {batch}"
    vectors = model.probe()
    length = "unit length" if encoder.options.normalise else "as computed"
    yield "vector", f"output {graph.output}, pooling {graph.pooling}, {vectors.shape[1]} components, {length}"
    yield "fingerprint", model.info.fingerprint
    yield "serve it", f"EMBEDDER_MODELS=NAME={folder}"


def _preparation(encoder: EncoderFolder) -> Iterator[str]:
    """Yield the steps of the preparation."""
    found = encoder.preparation
    if found.shortest_edge is not None:
        yield f"resize the shorter side to {found.shortest_edge}, {found.resample.name.lower()}"
    elif found.resize_to is not None:
        yield f"resize to {found.resize_to[0]} x {found.resize_to[1]}, {found.resample.name.lower()}"
    if found.crop is not None:
        yield f"cut out the middle, {found.crop[0]} x {found.crop[1]}"
    if found.pad is not None:
        yield f"pad at the bottom and on the right to {found.pad[0]} x {found.pad[1]}"
    yield f"multiply by {found.rescale:g}, subtract {found.mean}, divide by {found.deviation}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m embedder_service.inspect", description="Show what the embedder would serve from a folder."
    )
    parser.add_argument("folder", type=Path, help="a folder with model.onnx and preprocessor_config.json")
    folder: Path = parser.parse_args().folder
    try:
        for name, text in report(folder):
            print(f"{name:<13}{text}")
    except WeightsError as error:
        sys.exit(f"python -m embedder_service.inspect: {error}")


if __name__ == "__main__":
    main()
