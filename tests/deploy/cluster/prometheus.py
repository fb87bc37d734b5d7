"""A real Prometheus that scrapes replicas and evaluates the shipped rules, in a time of its own."""

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
# The rules are written for a scrape every 30 s, and here is one a second: all their times are a thirtieth.
FASTER = 30
SCRAPE_SECONDS = 1
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
# Prometheus takes a sample for the present one for so long.
LOOKBACK_SECONDS = 300

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# A range in brackets, an offset, and how long a condition has to hold. No names, such as rate5m, and no texts.
TIME = re.compile(
    r"(?P<before>\[|\boffset |^\s*for: |^\s*keep_firing_for: )(?P<number>\d+)(?P<unit>[smhdw])\b", re.MULTILINE
)


def scaled(rules: str, factor: int = FASTER) -> str:
    """A file of rules in which all times are divided by a factor, and nothing else is changed.

    Times are the ranges of selectors (`[5m]`), offsets (`offset 1h`), `for` and `keep_firing_for`. Thresholds stay:
    those of rates and ratios mean the same, and those of counts (`increase(...) >= 3`) are of a shorter time here.
    """

    def divided(found: re.Match[str]) -> str:
        milliseconds = int(found["number"]) * UNITS[found["unit"]] * 1000 // factor
        return f"{found['before']}{milliseconds}ms"

    return TIME.sub(divided, rules)


class Prometheus:
    """Asks a running Prometheus."""

    def __init__(self, address: str, targets: Path) -> None:
        """`address` is where it serves, `targets` the file in which it looks for what to scrape."""
        self._address = address
        self._targets = targets

    def scrape(self, metrics: Mapping[str, Iterable[str]]) -> None:
        """From now on scrapes these: addresses, HOST:PORT, by the name of the job."""
        groups = [{"labels": {"job": job}, "targets": list(several)} for job, several in metrics.items()]
        part = self._targets.with_suffix(".part")
        part.write_text(json.dumps(groups))
        # It watches the folder, and reads no half of a file that is moved there.
        part.rename(self._targets)

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """The alerts that fire, by name: the labels of each."""
        found: dict[str, list[dict[str, str]]] = {}
        for alert in self._ask("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def unhealthy_rules(self) -> list[str]:
        """The rules that could not be evaluated, and why."""
        return [
            f"{rule['name']}: {rule.get('lastError')}"
            for group in self._ask("rules")["groups"]
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]

    def up(self) -> dict[str, int]:
        """How many instances of each job answer."""
        found = self._ask("query?query=sum%20by%20(job)(up)")["result"]
        return {sample["metric"]["job"]: int(sample["value"][1]) for sample in found}

    def is_ready(self) -> bool:
        """Whether it answers queries."""
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
    """Runs one, with the shipped rules, its data in `folder`."""
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
