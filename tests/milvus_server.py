"""Run a real Milvus 2.3.5 standalone server, from the wheel `milvus==2.3.5`, for tests.

This module does not use the wheel's `MilvusServer`: it changes the working directory,
probes ports without SO_REUSEADDR (so a restart fails in TIME_WAIT), treats `/healthz` as
readiness, and uses the fixed ports 2379 and 2380 for etcd. Here, several servers can run
side by side, each with its own ports.
"""

import contextlib
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
import milvus as milvus_wheel
from pymilvus import (
    DataType,
    MilvusClient,
    MilvusException,
)
from pymilvus.client.types import LoadState

__all__ = ["MilvusProcess", "MilvusServerError"]

_READY_TIMEOUT: Final = 120.0  # seconds; a start takes 5 to 10, a restart 10 to 25
_STOP_TIMEOUT: Final = 10.0  # seconds from SIGTERM to SIGKILL
_KILL_TIMEOUT: Final = 10.0  # seconds for the kernel to end a killed process
_CALL_TIMEOUT: Final = 5.0  # seconds for one probing call
_POLL_INTERVAL: Final = 0.1  # seconds
_LOG_TAIL_BYTES: Final = 4000

# Below the range of local ports that Linux uses for outgoing connections, so that no
# connection takes a port of the server between two runs.
_PORTS: Final = range(15000, 32000)

_COMPONENTS: Final = (
    "rootCoord",
    "proxy",
    "queryCoord",
    "queryNode",
    "indexNode",
    "dataCoord",
    "dataNode",
)

# Milvus writes two small files outside its data folder.
_RUNTIME_FOLDERS: Final = (Path("/run/milvus"), Path("/tmp/milvus"))

# Replaces itself by the server. Before that, it asks the kernel (PR_SET_PDEATHSIG is 1)
# to kill it when the thread that started it ends, so that a killed test run leaves no server.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


class MilvusServerError(RuntimeError):
    """The server did not start or stop in time; the message ends with its log."""


class MilvusProcess:
    """One Milvus server whose files are in `data_folder`.

    Call `start`, `stop`, `kill` and `restart` in any sensible order: ports and data stay
    the same. The end of the `with` block stops the server and deletes its files. Milvus
    listens on every interface, which no setting changes, but its components and etcd use
    loopback only.

    Call `start` and `restart` on a thread that outlives the server, because the kernel
    kills the server when that thread ends.
    """

    def __init__(
        self,
        data_folder: Path,
        *,
        ready_timeout: float = _READY_TIMEOUT,
        settings: Mapping[str, str] | None = None,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare a server; start and write nothing.

        Args:
            data_folder: folder for the files of the server.
            ready_timeout: maximum seconds of a start.
            settings: entries of milvus.yaml by their dotted names, such as `common.security.tlsMode`.
            client: arguments of `MilvusClient` for these settings: a token, the TLS files.
        """
        self._folder = data_folder.absolute()
        self._settings = dict(settings or {})
        self._client = dict(client or {})
        self._ready_timeout = ready_timeout
        self._ports: dict[str, int] = {}
        self._prepared = False
        self._process: subprocess.Popen[bytes] | None = None
        # The name of this server on the host: Milvus locks a pid file with this name.
        self._alias = uuid.uuid4().hex

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    @property
    def uri(self) -> str:
        """Return the address for `pymilvus`; it never changes."""
        scheme = "https" if self._client.get("secure") else "http"
        return f"{scheme}://127.0.0.1:{self._port('proxy_port')}"

    @property
    def pid(self) -> int | None:
        """Return the process id; None if the server does not run."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """Return the path of the log with the standard streams of all runs."""
        return self._folder / "logs" / "server.log"

    def start(self) -> None:
        """Start the server, and wait until it stores and finds data and has loaded its collections.

        Raises:
            MilvusServerError: the server runs already, ended early, or was not ready in time.
        """
        if self.pid is not None:
            raise MilvusServerError(f"Milvus runs already as process {self.pid}")
        self._prepare()
        self._launch()
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the server with SIGTERM, and after 10 s with SIGKILL. Data stays."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a crash would, and wait for its end.

        Raises:
            MilvusServerError: the process still exists after 10 s.
        """
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGKILL)  # does nothing if the process was reaped already
        try:
            process.wait(_KILL_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise self._error(f"process {process.pid} did not end {_KILL_TIMEOUT:g} s after SIGKILL") from None
        for folder in _RUNTIME_FOLDERS:
            (folder / f"standalone-{self._alias}.pid").unlink(missing_ok=True)
            (folder / f"server_id_{process.pid}").unlink(missing_ok=True)
        self._process = None

    def restart(self) -> None:
        """Stop the server if it runs, and start it with the same ports and data.

        Raises:
            MilvusServerError: as `start`.
        """
        self.stop()
        self.start()

    def discard(self) -> None:
        """Kill the server, and delete its files."""
        self.kill()
        self._prepared = False
        for name in ("bin", "configs", "data", "logs"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # only if it is empty

    def _port(self, name: str) -> int:
        """Return the port with this name; choose it on the first call."""
        while name not in self._ports:
            port = random.choice(_PORTS)
            if port not in self._ports.values() and _is_free(port):
                self._ports[name] = port
        return self._ports[name]

    def _prepare(self) -> None:
        """Write the configuration and unpack the binaries (3 s, 250 MB), once."""
        if self._prepared:
            return
        names = milvus_wheel.MilvusServerConfig().configurable_items
        ports = {name: self._port(name) for name in names if name.endswith("_port")}
        config = milvus_wheel.MilvusServerConfig(data_dir=str(self._folder), **ports)
        # Sessions of a killed server block the next run for `ttl` seconds.
        config.set("common.session.ttl", 5)
        config.set("common.gracefulStopTimeout", 3)  # seconds; the default is 1800
        for component in _COMPONENTS:
            config.set(f"{component}.ip", "127.0.0.1")
        config.resolve()
        client = f"http://127.0.0.1:{self._port('etcd_client')}"
        peer = f"http://127.0.0.1:{self._port('etcd_peer')}"
        (self._folder / "configs" / "etcd.yaml").write_text(
            f"name: default\n"
            f"listen-client-urls: {client}\n"
            f"advertise-client-urls: {client}\n"
            f"listen-peer-urls: {peer}\n"
            f"initial-advertise-peer-urls: {peer}\n"
            f"initial-cluster: default={peer}\n",
            encoding="utf-8",
        )
        milvus_wheel._initialize_data_files(str(self._folder))
        self._prepared = True

    def _launch(self) -> None:
        binaries = self._folder / "bin"
        environment = os.environ | {
            "DEPLOY_MODE": "STANDALONE",
            "ETCD_CONFIG_PATH": str(self._folder / "configs" / "etcd.yaml"),
            "LD_LIBRARY_PATH": str(binaries),
            "METRICS_PORT": str(self._port("metrics")),
            # Milvus reads a variable for each entry of milvus.yaml. The variable overrides the file.
            **{name.upper().replace(".", "_"): value for name, value in self._settings.items()},
        }
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        server = [str(binaries / "milvus"), "run", "standalone", "-alias", self._alias]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                launcher + server,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._ready_timeout
        last_error = "never asked"
        while time.monotonic() < deadline:
            if self.pid is None:
                raise self._error("Milvus ended before it was ready")
            try:
                self._check_health()
                self._probe(deadline)
            except (OSError, MilvusException, grpc.RpcError) as error:
                last_error = repr(error)
            else:
                return
            time.sleep(_POLL_INTERVAL)
        raise self._error(
            f"waited {self._ready_timeout:g} s for Milvus to store and find a row; last error: {last_error}"
        )

    def _check_health(self) -> None:
        """Raise OSError unless the server reports that it is healthy: a cheap first check."""
        url = f"http://127.0.0.1:{self._port('metrics')}/healthz"
        with urllib.request.urlopen(url, timeout=_CALL_TIMEOUT) as response:
            if response.read().strip() != b"OK":
                raise urllib.error.URLError("/healthz is not OK")

    def _probe(self, deadline: float) -> None:
        """Read every loaded collection; if there is none, create and drop one."""
        with _quiet_pymilvus():
            # With its own channel, because the shared one may be waiting to reconnect.
            client = MilvusClient(self.uri, dedicated=True, timeout=_CALL_TIMEOUT, **self._client)
            try:
                names = client.list_collections(timeout=_CALL_TIMEOUT)
                loaded = [_read(client, name, deadline) for name in names]
                if not any(loaded):
                    _write_and_read(client)
            finally:
                client.close()

    def _error(self, message: str) -> MilvusServerError:
        try:
            log = self.log_path.read_bytes()
        except OSError as error:
            log = repr(error).encode()
        tail = log[-_LOG_TAIL_BYTES:].decode(errors="replace")
        return MilvusServerError(f"{message}\nend of {self.log_path}:\n{tail}")


def _is_free(port: int) -> bool:
    """Return whether the server could listen on a port, with its own socket options."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError:
            return False
    return True


def _read(client: MilvusClient, name: str, deadline: float) -> bool:
    """Read a collection once it is loaded; return False if no load was requested."""
    while time.monotonic() < deadline:
        state = client.get_load_state(name, timeout=_CALL_TIMEOUT)["state"]
        if state == LoadState.Loaded:
            client.query(
                name,
                filter="",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=_CALL_TIMEOUT,
            )
            return True
        if state != LoadState.Loading:
            return False
        time.sleep(_POLL_INTERVAL)
    raise TimeoutError(f"collection {name!r} is still loading")


def _write_and_read(client: MilvusClient) -> None:
    """Create a collection, store a row, find it, and drop the collection."""
    name = f"probe_{uuid.uuid4().hex}"
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="L2")
    try:
        client.create_collection(name, schema=schema, index_params=index, timeout=_CALL_TIMEOUT)
        row = {"id": 1, "vector": [0.0, 1.0]}
        client.insert(name, [row], timeout=_CALL_TIMEOUT)
        (hits,) = client.search(
            name,
            data=[row["vector"]],
            limit=1,
            consistency_level="Strong",
            timeout=_CALL_TIMEOUT,
        )
        if len(hits) != 1:
            raise OSError("the search did not find the row just stored")
    finally:
        client.drop_collection(name, timeout=_CALL_TIMEOUT)


@contextlib.contextmanager
def _quiet_pymilvus() -> Iterator[None]:
    """Silence `pymilvus`, which logs a traceback for every failed call."""
    logger = logging.getLogger("pymilvus")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
