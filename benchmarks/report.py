"""The report of a benchmark: the machine, the ratios that the docs claim, and the figures behind them."""

import argparse
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from imagesearch_ingest.json_text import json_text


@dataclass
class Report:
    """The result of one run."""

    name: str
    ratios: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float | list[float]] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    """Targets of ratios and figures, as text, by name."""

    def median(self, name: str, values: Sequence[float]) -> float:
        """Record the values and their median under `name`; return the median."""
        middle = statistics.median(values)
        self.figures[name] = round(middle, 6)
        self.figures[f"{name}_each"] = [round(value, 6) for value in values]
        return middle

    def figure(self, name: str, value: float, target: str = "") -> None:
        """Record a figure."""
        self.figures[name] = round(value, 6)
        if target:
            self.targets[name] = target

    def ratio(self, name: str, value: float, target: str) -> None:
        """Record a ratio."""
        self.ratios[name] = round(value, 4)
        self.targets[name] = target

    def finish(self, path: Path | None) -> None:
        """Print the table and save the report."""
        table = Table(title=self.name)
        for heading in ("", "measured", "target"):
            table.add_column(heading)
        for name, ratio in self.ratios.items():
            table.add_row(name, f"{ratio:.3f}", self.targets[name], style="bold")
        for name, value in self.figures.items():
            if not isinstance(value, list):
                table.add_row(name, f"{value:,.4g}", self.targets.get(name, ""))
        Console(width=110).print(table)
        self.save(path)

    def save(self, path: Path | None) -> None:
        """Write {"machine", "ratios", "figures"} to a file; do nothing if `path` is None."""
        if path is not None:
            content = {"machine": machine(), "ratios": self.ratios, "figures": self.figures}
            path.write_text(json_text(content, indent=2) + "\n")


def machine() -> dict[str, str | int | list[str]]:
    """Return the facts about this machine that the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    facts = dict(line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    flags = {key.strip(): value for key, value in facts.items()}.get("flags", "").split()
    return {
        "cpu": next((value.strip() for key, value in facts.items() if key.startswith("model name")), ""),
        "cpus": len(os.sched_getaffinity(0)),
        "flags": sorted({"avx2", "avx512f", "avx512_bf16", "amx_bf16"}.intersection(flags)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "tensorflow": version("tensorflow-cpu"),
        "grpcio": version("grpcio"),
        "pymilvus": version("pymilvus"),
        "pillow": version("pillow"),
    }


def arguments(name: str, description: str, parts: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of a benchmark."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements, of which the medians count")
    parser.add_argument("--only", choices=parts, action="append", help="measure only this part; may be repeated")
    return parser.parse_args()


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of the values, without interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
