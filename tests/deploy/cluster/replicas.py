"""Replicas of a service, each with its own loopback address and all with one port, behind a DNS name that changes."""

import itertools
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from demo.local_stack import ServiceProcess, free_port
from tests.name_server import NameServer, name_server

# The values of the manifests.
CONNECTION_AGE_SECONDS = 15
PRE_STOP_SECONDS = 5.0
# Seconds until DNS removes the address of a killed replica, because Kubernetes must first notice its death.
NOTICE_SECONDS = 5.0

# A replica has its share if it gets this part of an even share over so many seconds.
SHARE, SHARE_WINDOW_SECONDS = 0.9, 3.0


@dataclass(frozen=True)
class Replica:
    """One process of a service."""

    host: str
    metrics: str
    """Address of its metrics, HOST:PORT."""
    process: ServiceProcess

    def counted(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels, or 0 if the replica does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=2) as response:
                text = response.read().decode()
        except OSError:
            return 0
        samples = itertools.chain.from_iterable(family.samples for family in text_string_to_metric_families(text))
        return sum(
            sample.value for sample in samples if sample.name == name and labels.items() <= dict(sample.labels).items()
        )

    def calls(self) -> float:
        """Return the number of calls that ended with OK."""
        return self.counted("grpc_server_handled_total", grpc_code="OK")


class Deployment:
    """Starts and stops replicas like a Kubernetes Deployment, with a DNS name like that of a headless Service."""

    def __init__(
        self, service: str, network: str, settings: Mapping[str, str], names: NameServer, folder: Path
    ) -> None:
        """Create a deployment without replicas.

        Args:
            service: embedder or search.
            network: prefix of the addresses of replicas, such as "127.0.1".
            settings: settings of each replica, without its addresses.
            names: the DNS server, which gets the addresses of ready replicas.
            folder: folder of the logs.
        """
        self.service = service
        self.names = names
        self.port = free_port()
        self.target = names.target(f"{service}-headless", self.port)
        self.replicas: list[Replica] = []
        self.changed: Callable[[], None] = lambda: None
        self._metrics_port = free_port()
        self._network = network
        self._settings = settings
        self._folder = folder
        self._numbers = itertools.count(1)

    def prepare(self, **settings: str) -> Replica:
        """Start a replica on a new address. Do not wait until it is ready."""
        host = f"{self._network}.{next(self._numbers)}"
        address, metrics = f"{host}:{self.port}", f"{host}:{self._metrics_port}"
        prefix = self.service.upper()
        environment = {
            **self._settings,
            f"{prefix}_LISTEN_ADDRESS": address,
            f"{prefix}_METRICS_ADDRESS": metrics,
            f"{prefix}_MAX_CONNECTION_AGE_SECONDS": str(CONNECTION_AGE_SECONDS),
            **settings,
        }
        process = ServiceProcess(f"{self.service}_service", address, environment, self._folder / f"{host}.log")
        replica = Replica(host, metrics, process)
        process.start()
        self.replicas.append(replica)
        self.changed()
        return replica

    def publish(self, replica: Replica) -> None:
        """Wait until a replica is ready, and add its address to the name."""
        replica.process.wait_until_healthy()
        self.names.add(replica.host)

    def add(self, count: int = 1) -> list[Replica]:
        """Start replicas together, and wait until the name has their addresses."""
        added = [self.prepare() for _ in range(count)]
        for replica in added:
            self.publish(replica)
        return added

    def kill(self, replica: Replica) -> None:
        """Kill a replica. The name keeps its address for a while."""
        replica.process.kill()
        time.sleep(NOTICE_SECONDS)
        self.forget(replica)

    def forget(self, replica: Replica) -> None:
        """Remove a replica from the deployment and from the name."""
        self.names.remove(replica.host)
        self.replicas.remove(replica)
        self.changed()

    def retire(self, replica: Replica) -> int:
        """Stop a replica like Kubernetes: remove its address, then send SIGTERM. Return its exit code."""
        self.names.remove(replica.host)
        time.sleep(PRE_STOP_SECONDS)
        code = replica.process.stop()
        self.forget(replica)
        return code

    def roll(self) -> list[int]:
        """Replace each replica, with maxSurge 1 and maxUnavailable 0. Return the exit codes of the old replicas."""
        codes = []
        for old in list(self.replicas):
            self.add()
            codes.append(self.retire(old))
        return codes

    def calls(self) -> list[float]:
        """Return the number of calls of each replica that ended with OK."""
        return [replica.calls() for replica in self.replicas]

    def end(self) -> None:
        """Stop all replicas, including frozen ones."""
        for replica in self.replicas:
            replica.process.signal(signal.SIGCONT)
            replica.process.ask_to_stop()
        for replica in self.replicas:
            replica.process.stop()


@contextmanager
def deployment(service: str, network: str, settings: Mapping[str, str], folder: Path) -> Iterator[Deployment]:
    """Create a deployment without replicas, and stop its replicas at the end."""
    with name_server([]) as names:
        made = Deployment(service, network, settings, names, folder)
        try:
            yield made
        finally:
            made.end()


def spread(deployments: Sequence[Deployment], seconds: float) -> list[list[float]]:
    """Return the calls of each replica in the next seconds, relative to an even share of its deployment's calls."""
    before = [deployment.calls() for deployment in deployments]
    time.sleep(seconds)
    shares = []
    for deployment, earlier in zip(deployments, before, strict=True):
        answered = [after - then for after, then in zip(deployment.calls(), earlier, strict=True)]
        shares.append([calls * len(answered) / sum(answered) for calls in answered])
    return shares


def seconds_until_share(deployment: Deployment, replica: Replica, limit: float) -> float:
    """Return the seconds until a replica has its share of the calls. Fail after `limit` seconds."""
    began = time.monotonic()
    index = deployment.replicas.index(replica)
    samples: list[tuple[float, Sequence[float]]] = []
    while True:
        now = time.monotonic() - began
        samples.append((now, deployment.calls()))
        while len(samples) > 1 and now - samples[1][0] >= SHARE_WINDOW_SECONDS:
            samples.pop(0)
        then, before = samples[0]
        answered = [after - earlier for after, earlier in zip(samples[-1][1], before, strict=True)]
        if now - then >= SHARE_WINDOW_SECONDS and answered[index] >= SHARE * sum(answered) / len(answered) > 0:
            # The replica had its share during the whole window, which began then.
            return then
        assert then < limit, f"{replica.host} has not got its share within {limit:.0f} s: {answered}"
        time.sleep(0.5)
