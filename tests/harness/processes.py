"""The services as child processes, with their costs counted."""

from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from demo.local_stack import ServiceProcess, free_port
from tests.harness import counts


class OwnedProcess(ServiceProcess):
    """A service that ends with the tests, even if they are killed."""

    def thread_stays(self) -> bool:
        # Tests run in the main thread. The threads that start shared services live as long as the session.
        return True


class EmbedderProcess(OwnedProcess):
    """An embedder on a free port, with metrics. It counts the images that it embeds."""

    def __init__(self, log: Path, **settings: str) -> None:
        """Prepare the service. `settings` are its settings in lower case, without the prefix."""
        settings = {
            "listen_address": f"127.0.0.1:{free_port()}",
            "metrics_address": f"127.0.0.1:{free_port()}",
            **settings,
        }
        self.metrics_address = settings["metrics_address"]
        self.log = log
        self._counted, self._tier = 0, counts.tier()
        environment = {f"EMBEDDER_{name.upper()}": value for name, value in settings.items()}
        super().__init__("embedder_service", settings["listen_address"], environment, log)

    def start(self) -> None:
        # A session fixture may stop it during a test of another tier.
        self._counted, self._tier = 0, counts.tier()
        super().start()

    def count_images(self) -> None:
        """Add the images embedded since the last call to the counts. A process that has ended adds none."""
        with suppress(OSError, HTTPException):
            embedded = int(metric(self.metrics_address, "embedder_batch_size_sum"))
            counts.add(counts.IMAGES, embedded - self._counted, of=self._tier)
            self._counted = embedded

    def ask_to_stop(self) -> None:
        self.count_images()
        super().ask_to_stop()

    def kill(self) -> int:
        self.count_images()
        return super().kill()


class SearchProcess(OwnedProcess):
    """A search service on a free port; with metrics if `settings` has a metrics address."""

    def __init__(self, log: Path, **settings: str) -> None:
        """Prepare the service. `settings` are its settings in lower case, without the prefix."""
        settings = {"listen_address": f"127.0.0.1:{free_port()}", **settings}
        self.metrics_address = settings.get("metrics_address", "off")
        environment = {f"SEARCH_{name.upper()}": value for name, value in settings.items()}
        super().__init__("search_service", settings["listen_address"], environment, log)


def metric(address: str, sample: str, **labels: str) -> float:
    """Return the sum of a service's samples with this name and these labels."""
    connection = HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return sum(
        found.value
        for family in text_string_to_metric_families(text)
        for found in family.samples
        if found.name == sample and labels.items() <= found.labels.items()
    )
