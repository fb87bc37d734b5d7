"""A real Prometheus that scrapes replicas and evaluates the rules with shorter times."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from demo.local_stack import free_port
from deploy.checks.tools import ROOT, prometheus_tool

RULES = ROOT / "deploy" / "observability" / "rules"
# The rules expect a scrape every 30 s. Here Prometheus scrapes every second, so all times are divided by 30.
FASTER = 30
SCRAPE_SECONDS = 1
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
# For this long, Prometheus uses a sample as the current value.
LOOKBACK_SECONDS = 300

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# A range in brackets, an offset, or a duration of `for`. Names such as rate5m and texts do not match.
TIME = re.compile(
    r"(?P<before>\[|\boffset |^\s*for: |^\s*keep_firing_for: )(?P<number>\d+)(?P<unit>[smhdw])\b", re.MULTILINE
)


def scaled(rules: str, factor: int = FASTER) -> str:
    """Return the text of a rule file with all times divided by a factor.

    Times are ranges (`[5m]`), offsets (`offset 1h`), `for` and `keep_firing_for`. Thresholds do not change: those of
    rates and ratios mean the same, and those of counts (`increase(...) >= 3`) apply to a shorter time.
    """

    def divided(found: re.Match[str]) -> str:
        milliseconds = int(found["number"]) * UNITS[found["unit"]] * 1000 // factor
        return f"{found['before']}{milliseconds}ms"

    return TIME.sub(divided, rules)


class Prometheus:
    """A client of a running Prometheus."""

    def __init__(self, address: str, targets: Path) -> None:
        """Use the Prometheus at `address`, HOST:PORT, which reads its targets from the file `targets`."""
        self._address = address
        self._targets = targets

    def scrape(self, metrics: Mapping[str, Iterable[str]]) -> None:
        """Set the targets to scrape: addresses, HOST:PORT, by job name."""
        groups = [{"labels": {"job": job}, "targets": list(several)} for job, several in metrics.items()]
        part = self._targets.with_suffix(".part")
        part.write_text(json.dumps(groups))
        # Prometheus watches the folder. Renaming is atomic, so it never reads half of a file.
        part.rename(self._targets)

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """Return the labels of each firing alert, by alert name."""
        found: dict[str, list[dict[str, str]]] = {}
        for alert in self._ask("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def unhealthy_rules(self) -> list[str]:
        """Return the rules that could not be evaluated, with their errors."""
        return [
            f"{rule['name']}: {rule.get('lastError')}"
            for group in self._ask("rules")["groups"]
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]

    def up(self) -> dict[str, int]:
        """Return the number of instances of each job that answer."""
        found = self._ask("query?query=sum%20by%20(job)(up)")["result"]
        return {sample["metric"]["job"]: int(sample["value"][1]) for sample in found}

    def is_ready(self) -> bool:
        """Return whether Prometheus answers queries."""
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _ask(self, what: str) -> dict[str, list[dict]]:  # type: ignore[type-arg]
        with urllib.request.urlopen(f"http://{self._address}/api/v1/{what}", timeout=5) as response:
            answer: dict[str, list[dict]] = json.load(response)["data"]  # type: ignore[type-arg]
        return answer


@contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the scaled rules and with its data in `folder`."""
    (folder / "targets").mkdir()
    targets = folder / "targets" / "targets.json"
    targets.write_text("[]")
    for rules in sorted(RULES.glob("*.yml")):
        (folder / f"rules-{rules.name}").write_text(scaled(rules.read_text()))
    config = {
        "global": {
            "scrape_interval": f"{SCRAPE_SECONDS}s",
            "scrape_timeout": f"{SCRAPE_SECONDS}s",
            "evaluation_interval": f"{SCRAPE_SECONDS}s",
        },
        "rule_files": [str(folder / "rules-*.yml")],
        "scrape_configs": [{"job_name": "files", "file_sd_configs": [{"files": [str(targets)]}]}],
    }
    # JSON is YAML.
    (folder / "prometheus.yml").write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(prometheus_tool("prometheus")),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        f"--query.lookback-delta={LOOKBACK_SECONDS // FASTER}s",
    ]
    log = folder / "prometheus.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        running = Prometheus(address, targets)
        deadline = time.monotonic() + READY_SECONDS
        while not running.is_ready():
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
