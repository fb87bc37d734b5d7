"""Metrics of the sweep of regions, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter


def orphaned_regions_deleted(registry: CollectorRegistry) -> Counter:
    """Add the counter of writes whose regions the sweep deleted to a registry, and return it."""
    return Counter(
        "search_orphaned_regions_deleted",
        "Writes of images whose regions the sweep deleted, because no image has them.",
        registry=registry,
    )
