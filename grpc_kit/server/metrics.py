"""Serves metrics to Prometheus over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry, start_http_server

log = structlog.stdlib.get_logger()


def new_registry() -> CollectorRegistry:
    """Return a registry with the metrics of the process: CPU seconds, memory, open files, start time."""
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    return registry


@contextmanager
def served(registry: CollectorRegistry, address: str) -> Iterator[None]:
    """Serve `registry` at http://ADDRESS/metrics in this context; "off" serves nothing. Raises OSError."""
    if address == "off":
        yield
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise OSError(
            f"cannot serve metrics on {address}: {error}. Set *_METRICS_ADDRESS to another address, or to off"
        ) from None
    log.info("metrics", url=f"http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
