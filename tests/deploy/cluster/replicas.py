"""Replicas of a service, each on a loopback address of its own and all on one port, behind a name that changes."""

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

# As the manifests have them.
CONNECTION_AGE_SECONDS = 15
PRE_STOP_SECONDS = 5.0
# For which a name still has the address of a replica that is dead: its node has to notice, and to tell.
NOTICE_SECONDS = 5.0

# The part of an even share by which a replica counts as having its own, over so many seconds.
SHARE, SHARE_WINDOW_SECONDS = 0.9, 3.0


@dataclass(frozen=True)
class Replica:
    """One process."""

    host: str
    metrics: str
    """Where its metrics are, HOST:PORT."""
    process: ServiceProcess

    def counted(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 where it answers nobody."""
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
        """The calls that it has answered well."""
        return self.counted("grpc_server_handled_total", grpc_code="OK")


class Deployment:
    """Starts and stops replicas as a Deployment of Kubernetes does, and names them as its headless Service does."""

    def __init__(
        self, service: str, network: str, settings: Mapping[str, str], names: NameServer, folder: Path
    ) -> None:
        """Has no replica yet.

        Args:
            service: embedder or search.
            network: the begin of its addresses, such as "127.0.1".
            settings: of each replica, besides its addresses.
            names: gets the addresses of those that are ready.
            folder: for their logs.
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
        """Begins to start a replica, on an address that none had before."""
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
        """Waits until a replica is ready, and gives the name its address."""
        replica.process.wait_until_healthy()
        self.names.add(replica.host)

    def add(self, count: int = 1) -> list[Replica]:
        """Starts replicas at a time, and waits until the name has them."""
        added = [self.prepare() for _ in range(count)]
        for replica in added:
            self.publish(replica)
        return added

    def kill(self, replica: Replica) -> None:
        """Kills a replica; the name has its address for a while longer."""
        replica.process.kill()
        time.sleep(NOTICE_SECONDS)
        self.forget(replica)

    def forget(self, replica: Replica) -> None:
        """A replica is no part of this any more."""
        self.names.remove(replica.host)
        self.replicas.remove(replica)
        self.changed()

    def retire(self, replica: Replica) -> int:
        """Stops a replica as Kubernetes does: first the name loses it, then it is asked to. Gives its exit code."""
        self.names.remove(replica.host)
        time.sleep(PRE_STOP_SECONDS)
        code = replica.process.stop()
        self.forget(replica)
        return code

    def roll(self) -> list[int]:
        """Puts a new replica in the place of each, with maxSurge 1 and maxUnavailable 0. Gives the old ones' codes."""
        codes = []
        for old in list(self.replicas):
            self.add()
            codes.append(self.retire(old))
        return codes

    def calls(self) -> list[float]:
        """The calls that each replica has answered well."""
        return [replica.calls() for replica in self.replicas]

    def end(self) -> None:
        """Ends all that is still there, also what is frozen."""
        for replica in self.replicas:
            replica.process.signal(signal.SIGCONT)
            replica.process.ask_to_stop()
        for replica in self.replicas:
            replica.process.stop()


@contextmanager
def deployment(service: str, network: str, settings: Mapping[str, str], folder: Path) -> Iterator[Deployment]:
    """A deployment without replicas, which has none at its end either."""
    with name_server([]) as names:
        made = Deployment(service, network, settings, names, folder)
        try:
            yield made
        finally:
            made.end()


def spread(deployments: Sequence[Deployment], seconds: float) -> list[list[float]]:
    """The calls of each replica in the next seconds, as a part of an even share of its deployment's."""
    before = [deployment.calls() for deployment in deployments]
    time.sleep(seconds)
    shares = []
    for deployment, earlier in zip(deployments, before, strict=True):
        answered = [after - then for after, then in zip(deployment.calls(), earlier, strict=True)]
        shares.append([calls * len(answered) / sum(answered) for calls in answered])
    return shares


def seconds_until_share(deployment: Deployment, replica: Replica, limit: float) -> float:
    """How long it takes until a replica has its share of the calls, from now on. Fails after `limit` seconds."""
    began = time.monotonic()
    place = deployment.replicas.index(replica)
    looks: list[tuple[float, Sequence[float]]] = []
    while True:
        now = time.monotonic() - began
        looks.append((now, deployment.calls()))
        while len(looks) > 1 and now - looks[1][0] >= SHARE_WINDOW_SECONDS:
            looks.pop(0)
        then, before = looks[0]
        answered = [after - earlier for after, earlier in zip(looks[-1][1], before, strict=True)]
        if now - then >= SHARE_WINDOW_SECONDS and answered[place] >= SHARE * sum(answered) / len(answered) > 0:
            # It had its share over all of that time.
            return then
        assert then < limit, f"{replica.host} has not got its share within {limit:.0f} s: {answered}"
        time.sleep(0.5)
