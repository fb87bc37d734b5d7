"""Serves metrics to Prometheus over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry, start_http_server

log = structlog.stdlib.get_logger()


def new_registry() -> CollectorRegistry:
    """A registry that has the process' own metrics: CPU seconds, memory, open files, start time."""
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    return registry


@contextmanager
def served(registry: CollectorRegistry, address: str) -> Iterator[None]:
    """Serves `registry` at http://ADDRESS/metrics inside; "off" serves nothing. Raises OSError where it is taken."""
    if address == "off":
        yield
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise OSError(f"cannot serve metrics on {address}: {error}. *_METRICS_ADDRESS names another, or off") from None
    log.info("metrics", url=f"http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
