"""Fixtures: the example service on a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from grpc_kit.channel import open_channel
from grpc_kit.credentials import ClientTls
from tests.unit.grpc_kit.example import SECRET, SERVICE, Example, Running, Serving, make_server


@pytest.fixture
def serving() -> Serving:
    @asynccontextmanager
    async def with_settings(
        *, tls: ClientTls | None = None, token: str = "", largest: int = 1_000_000, **settings: Any
    ) -> AsyncIterator[Running]:
        servicer, registry = Example(), CollectorRegistry()
        server = make_server(servicer, registry, **settings)
        address = await server.start()
        try:
            async with open_channel(address, largest, [f"{SERVICE}/GetModel"], tls=tls, token=token) as channel:
                yield Running(servicer, server, registry, address, channel)
        finally:
            servicer.may_end.set()
            await server.stop()

    return with_settings


@pytest.fixture
def secret() -> str:
    """Return the message of the servicer's fault."""
    return SECRET
