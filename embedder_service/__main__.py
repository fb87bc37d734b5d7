"""Runs the embedder: `python -m embedder_service`; `--help` lists the environment variables."""

import asyncio
import sys

import structlog

from embedder_service.settings import EmbedderSettings
from grpc_kit import logging, tracing
from grpc_kit.server import stop_signals
from grpc_kit.settings import load, log_settings

log = structlog.stdlib.get_logger("embedder_service")


async def run(settings: EmbedderSettings) -> None:
    """Serves until the process is asked to stop."""
    # TensorFlow takes seconds to import: not before wrong settings and `--help` have been answered.
    from embedder_service.adapters.golden import GoldenError  # noqa: PLC0415
    from embedder_service.adapters.weights import WeightsError  # noqa: PLC0415
    from embedder_service.bootstrap import load_model, serve  # noqa: PLC0415

    try:
        model = load_model(settings)
    except (WeightsError, GoldenError) as error:
        sys.exit(f"embedder_service: {error}")
    info = model.info
    log.info(
        "model loaded",
        model=info.name,
        fingerprint=info.fingerprint,
        precision=info.precision,
        threads=info.threads,
        ms_per_image=round(info.seconds_per_image * 1e3, 1),
    )
    try:
        stop = stop_signals()
        with tracing.exported("embedder_service"):
            async with serve(model, settings):
                await stop.wait()
    except OSError as error:
        sys.exit(f"embedder_service: {error}")


def main() -> None:
    """Runs the service."""
    settings = load(EmbedderSettings, "python -m embedder_service")
    logging.configure(settings.log_format, settings.log_level, "embedder_service")
    log_settings(settings)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
