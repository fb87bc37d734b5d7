"""Runs the embedder: `python -m embedder_service`. `--help` lists the environment variables."""

import asyncio
import sys

import structlog

from embedder_service.settings import EmbedderSettings
from grpc_kit.server import logging, tracing
from grpc_kit.server.process import end_when_asked, finish, stop_signals
from grpc_kit.server.settings import load, log_settings

log = structlog.stdlib.get_logger("embedder_service")


async def run(settings: EmbedderSettings) -> None:
    """Serve until the process receives a signal to stop."""
    # TensorFlow takes seconds to import, so wrong settings and `--help` are handled before that.
    from embedder_service.adapters.quiet_tensorflow import import_tensorflow  # noqa: PLC0415

    import_tensorflow()
    from embedder_service.adapters.golden_vectors import GoldenError  # noqa: PLC0415
    from embedder_service.adapters.weights_files import WeightsError  # noqa: PLC0415
    from embedder_service.bootstrap import load_models, serve  # noqa: PLC0415

    try:
        models = load_models(settings)
    except (WeightsError, GoldenError) as error:
        sys.exit(f"embedder_service: {error}")
    for info in (model.info for model in models):
        log.info(
            "model loaded",
            model=info.name,
            dimension=info.dimension,
            fingerprint=info.fingerprint,
            precision=info.precision,
            threads=info.threads,
            ms_per_image=round(info.seconds_per_image * 1e3, 1),
            memory_mb=round(info.memory_bytes / 1e6),
        )
    try:
        stop = stop_signals(settings.drain_seconds)
        with tracing.exported("embedder_service"):
            async with serve(models, settings):
                await stop.wait()
        finish()
    except OSError as error:
        sys.exit(f"embedder_service: {error}")


def main() -> None:
    """Run the service."""
    end_when_asked()
    settings = load(EmbedderSettings, "python -m embedder_service")
    logging.configure(settings.log_format, settings.log_level, "embedder_service")
    log_settings(settings)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
