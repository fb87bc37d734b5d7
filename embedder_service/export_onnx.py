"""Writes a model of a published network as an ONNX folder: `python -m embedder_service.export_onnx vgg16 -o FOLDER`.

The weights must have been fetched. The folder has `model.onnx`, `preprocessor_config.json` and `imagesearch.json`.
"""

import argparse
import sys
from pathlib import Path

from embedder_service.adapters.quiet_tensorflow import import_tensorflow
from embedder_service.core.model_names import ModelName, ModelNameError, parse_model_name
from embedder_service.settings import EmbedderSettings
from grpc_kit.server.settings import exit_if, unknown_settings


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m embedder_service.export_onnx",
        description="Write a model as an ONNX folder. EMBEDDER_WEIGHTS and EMBEDDER_WEIGHTS_CACHE say where its "
        "weights are.",
    )
    parser.add_argument("model", help="a model such as vgg16, vgg16-gem or mobilenet")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="the folder to write")
    options = parser.parse_args()
    try:
        model = parse_model_name(options.model)
    except ModelNameError as error:
        sys.exit(f"{parser.prog}: {error}")
    if not isinstance(model, ModelName):
        sys.exit(f"{parser.prog}: {options.model} is a folder already")
    if options.output.exists():
        sys.exit(f"{parser.prog}: {options.output} exists; name a new folder")
    exit_if(unknown_settings(EmbedderSettings), parser.prog)
    settings = EmbedderSettings()
    import_tensorflow()
    from embedder_service.adapters import weights_files  # noqa: PLC0415 - TensorFlow takes seconds to import
    from embedder_service.adapters.onnx_export import export  # noqa: PLC0415 - as above

    cache = settings.weights_cache or weights_files.default_cache()
    path = settings.weights_files.get(model.weights, cache / weights_files.SPECS[model.weights].file_name)
    try:
        export(model, path, options.output, settings.weights_digests.get(model.weights, ""))
    except weights_files.WeightsError as error:
        sys.exit(f"{parser.prog}: {error}")
    except OSError as error:
        sys.exit(f"{parser.prog}: {options.output}: {error.strerror}")
    print(f"wrote {options.output}; serve it with EMBEDDER_MODELS=NAME={options.output}")


if __name__ == "__main__":
    main()
