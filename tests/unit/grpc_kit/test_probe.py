"""The command that checks the health of a server."""

import asyncio
import sys
from pathlib import Path

import pytest

from grpc_kit.health import LIVENESS
from tests.harness.certificates import Authority
from tests.unit.grpc_kit.example import SERVICE, Serving


async def probe(*arguments: str) -> tuple[int, str]:
    """Return the exit code and the standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "grpc_kit.probe", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode().strip()


@pytest.mark.parametrize("service", ["", SERVICE, LIVENESS])
async def test_a_serving_server_passes(serving: Serving, service: str) -> None:
    async with serving() as running:
        assert await probe(running.address, "--service", service) == (0, "")


async def test_a_server_that_waits_for_another_server_is_alive_but_not_serving(serving: Serving) -> None:
    async with serving() as running:
        await running.server.set_serving(serving=False)
        assert await probe(running.address) == (1, f"{running.address}: NOT_SERVING")
        assert await probe(running.address, "--service", LIVENESS) == (0, "")


async def test_a_dead_server_is_not_alive(serving: Serving) -> None:
    async with serving() as running:
        await running.server.report_dead()
        assert await probe(running.address, "--service", LIVENESS) == (1, f"{running.address}: NOT_SERVING")


async def test_the_probe_prints_why_it_got_no_answer(serving: Serving, unused_tcp_port: int) -> None:
    async with serving() as running:
        code, said = await probe(running.address, "--service", "no.such.Service")
        assert (code, "NOT_FOUND" in said) == (1, True)
    code, said = await probe(f"127.0.0.1:{unused_tcp_port}", "--timeout", "2")
    assert (code, "UNAVAILABLE" in said) == (1, True)


async def test_the_probe_accepts_a_name_of_the_servers_certificate(serving: Serving, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair, own = authority.issue("server"), authority.issue("client")
    ca = ["--ca", str(authority.file)]
    shown = ["--certificate", str(own.certificate), "--key", str(own.key)]
    files = {"tls_certificate": pair.certificate, "tls_key": pair.key}
    async with serving(**files) as running:
        assert await probe(running.address, *ca, "--server-name", "localhost") == (0, "")
        assert (await probe(running.address, *ca, "--server-name", "elsewhere", "--timeout", "2"))[0] == 1
        assert (await probe(running.address, "--timeout", "2"))[0] == 1
    async with serving(**files, tls_client_ca=authority.file) as running:
        assert (await probe(running.address, *ca, "--timeout", "2"))[0] == 1
        assert await probe(running.address, *ca, *shown) == (0, "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--certificate", "c.pem", "--key", "k.pem"], "--certificate needs --ca, which turns TLS on"),
        (["--key", "k.pem"], "--key needs --ca"),
        (["--server-name", "search"], "--server-name needs --ca"),
        (["--ca", "ca.pem", "--certificate", "c.pem"], "--certificate and --key must be set together"),
        (["--ca", "ca.pem", "--key", "k.pem"], "--certificate and --key must be set together"),
    ],
)
async def test_incomplete_tls_options_are_refused(serving: Serving, options: list[str], said: str) -> None:
    async with serving() as running:
        code, printed = await probe(running.address, *options)
    assert (code, said in printed) == (2, True)


async def test_unusable_files_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    assert await probe("127.0.0.1:1", "--ca", str(missing)) == (
        1,
        f"{missing} cannot be read: No such file or directory",
    )
