"""Run the search service: `python -m search_service`. `--help` lists the environment variables."""

import asyncio
import sys

from grpc_kit.server import logging, tracing
from grpc_kit.server.process import end_when_asked, finish, stop_signals
from grpc_kit.server.settings import load, log_settings
from search_service.settings import SearchSettings


async def run(settings: SearchSettings) -> None:
    """Serve until the process receives a stop signal."""
    # pymilvus takes long to import, so settings are checked and `--help` is answered first.
    from search_service.bootstrap import serve  # noqa: PLC0415

    try:
        stop = stop_signals(settings.drain_seconds)
        with tracing.exported("search_service"):
            async with serve(settings):
                await stop.wait()
        finish()
    except OSError as error:
        sys.exit(f"search_service: {error}")


def main() -> None:
    """Run the service."""
    end_when_asked()
    settings = load(SearchSettings, "python -m search_service")
    logging.configure(settings.log_format, settings.log_level, "search_service")
    log_settings(settings)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
