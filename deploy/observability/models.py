"""Tests of the rules with one, two and five models.

Two kinds, both made here and run by promtool: the tests of `tests/*.yml` with their load spread over several models,
which must not change what they expect, and fleets of embedders, for which every rule has a value that is calculated
from the description of the fleet.
"""

import copy
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from deploy.checks.tools import ProblemError, prometheus_tool, run
from deploy.observability.dashboard import dashboard
from deploy.observability.exposed import exposed
from deploy.observability.promql import Selector, selectors

Yaml: TypeAlias = dict[str, Any]

HERE = Path(__file__).parent
TESTS = sorted((HERE / "tests").glob("*.yml"))
# The share of each model in the load, as sums of powers of two: their parts of a value are exact.
LOADS = {
    "one model": ("1",),
    "two models": ("0.25", "0.75"),
    "two models, one idle": ("1", "0"),
    "five models": ("0.5", "0.25", "0.125", "0.0625", "0.0625"),
    "five models, four idle": ("0", "0", "1", "0", "0"),
}
# One value, or several: 5, 5x20, 0+1.5x20, _, _x20, stale.
_VALUE = re.compile(r"(?P<start>\d+(?:\.\d+)?)(?:(?P<sign>[+-])(?P<step>\d+(?:\.\d+)?))?(?P<count>x\d+)?")


def problems(rules: Path = HERE / "rules", loads: Sequence[str] = tuple(LOADS)) -> Iterator[str]:
    """Yield what promtool says of the rules in a folder with any number of models, and with the named loads."""
    documents = {"fleets": _document([fleet.test() for fleet in FLEETS])}
    documents |= {name: _spread_tests(LOADS[name]) for name in loads}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, document) in enumerate(documents.items()):
            path = Path(folder) / f"{number}.yml"
            path.write_text(yaml.safe_dump({**document, "rule_files": [f"{rules}/*.yml"]}))
            try:
                run(prometheus_tool("promtool"), "test", "rules", path)
            except ProblemError as error:
                yield f"{name}: {error}"


def unnoticed() -> Iterator[str]:
    """Yield the faults of rules that no test of this module notices. Raises ProblemError if a fault is no PromQL."""
    for name, (right, wrong) in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            texts = {path.name: path.read_text() for path in (HERE / "rules").glob("*.yml")}
            if sum(text.count(right) for text in texts.values()) != 1:
                yield f"{name}: no rule has {right}, or several have"
                continue
            for file, text in texts.items():
                (Path(folder) / file).write_text(text.replace(right, wrong))
            run(prometheus_tool("promtool"), "check", "rules", *Path(folder).iterdir())
            if next(problems(Path(folder), ["two models"]), None) is None:
                yield name


def _document(tests: list[Yaml]) -> Yaml:
    any_test: Yaml = yaml.safe_load(TESTS[0].read_text())
    order = any_test["group_eval_order"]
    return {"evaluation_interval": "1m", "group_eval_order": order, "tests": tests}


def _spread_tests(shares: Sequence[str]) -> Yaml:
    """Return the tests that have metrics of models, with their load spread over models by `shares`."""
    tests = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    return _document([_spread_test(test, shares) for test in tests if any(map(_is_of_a_model, test["input_series"]))])


def _is_of_a_model(series: Yaml) -> bool:
    (selector,) = selectors(series["series"])
    return "model" in exposed().get(selector.metric, {})


def _spread_test(test: Yaml, shares: Sequence[str]) -> Yaml:
    series = [each for old in test["input_series"] for each in _spread_series(old, shares)]
    # Instances with different weights of one model have the same of the others.
    unique = {each["series"]: each for each in series}
    return {**copy.deepcopy(test), "input_series": list(unique.values())}


def _spread_series(series: Yaml, shares: Sequence[str]) -> Iterator[Yaml]:
    (selector,) = selectors(series["series"])
    labels = {label: values[0] for label, _, values in selector.labels}
    if labels.get("job") != "embedder" or not _is_of_a_model(series):
        yield series
    elif "fingerprint" in labels:
        yield series
        for number in range(1, len(shares)):
            others = labels | {"model": f"other-{number}", "fingerprint": f"fingerprint-{number}"}
            yield {"series": _text(selector, others), "values": series["values"]}
    elif "model" in labels:
        yield series
    else:
        for number, share in enumerate(shares):
            yield {
                "series": _text(selector, labels | {"model": f"model-{number}"}),
                "values": " ".join(_part(value, share) for value in str(series["values"]).split()),
            }


def _text(selector: Selector, labels: dict[str, str]) -> str:
    return f"{selector.metric}{{{','.join(f'{label}={chr(34)}{value}{chr(34)}' for label, value in labels.items())}}}"


def _part(value: str, share: str) -> str:
    """Return a share of a value in promtool's notation."""
    found = _VALUE.fullmatch(value)
    if found is None:
        return value
    step = f"{found['sign']}{Decimal(found['step']) * Decimal(share):f}" if found["step"] else ""
    return f"{Decimal(found['start']) * Decimal(share):f}{step}{found['count'] or ''}"


@dataclass(frozen=True)
class Fleet:
    """Embedders that all are well, under a steady load that is spread evenly over those that serve a model."""

    replicas: int
    loads: tuple[float, ...]
    """Images a second of each model, each in a run of its own; 1.0 keeps one embedder busy."""
    rare: bool = False
    """Whether the last model is served by the first replica alone."""

    def __str__(self) -> str:
        """Return a name for messages."""
        rare = ", the last on one of them" if self.rare else ""
        return f"{len(self.loads)} models on {self.replicas} embedders{rare}"

    def load(self, replica: int, model: int) -> float | None:
        """Return the images a second of one model on one replica; None if the replica does not serve it."""
        if not self.rare or model < len(self.loads) - 1:
            return self.loads[model] / self.replicas
        return self.loads[model] if replica == 0 else None

    def of(self, replica: int) -> float:
        """Return the images a second of one replica."""
        return sum(self.load(replica, model) or 0.0 for model in range(len(self.loads)))

    def test(self) -> Yaml:
        """Return the test: no alert, and each value as calculated."""
        return {
            "name": str(self),
            "interval": "30s",
            "input_series": [
                {"series": 'up{job="search",instance="s1"}', "values": "1x120"},
                *(each for replica in range(self.replicas) for each in self._series(replica)),
            ],
            "promql_expr_test": [
                {"expr": "ALERTS", "eval_time": "60m"},
                *(
                    {"expr": f"round({expr}, 0.0001)", "eval_time": "60m", "exp_samples": samples}
                    for expr, samples in self._expected()
                ),
            ],
        }

    def _series(self, replica: int) -> Iterator[Yaml]:
        place = f'job="embedder",namespace="shop",instance="e{replica}"'
        yield {"series": f"up{{{place}}}", "values": "1x120"}
        yield {"series": f"grpc_server_serving{{{place}}}", "values": "1x120"}
        yield {"series": f"grpc_server_draining{{{place}}}", "values": "0x120"}
        yield {
            "series": f'grpc_server_handled_total{{{place},grpc_method="Embed",grpc_code="OK"}}',
            "values": f"0+{self.of(replica) * 30}x120",
        }
        for model in range(len(self.loads)):
            load = self.load(replica, model)
            if load is not None:
                yield from self._model_series(f'{place},model="m{model}"', model, load)

    def _model_series(self, place: str, model: int, load: float) -> Iterator[Yaml]:
        # Each image is decoded in 0.1 s, waits for 0.5 s and runs for 1 s.
        lane = 'lane="interactive"'
        rates = {
            "embedder_inference_seconds_sum": ("", 1.0),
            "embedder_batch_size_sum": ("", 1.0),
            "embedder_batch_size_count": ("", 1.0),
            "embedder_queue_seconds_sum": (f",{lane}", 0.5),
            "embedder_queue_seconds_count": (f",{lane}", 1.0),
            "embedder_queue_seconds_bucket": (f',{lane},le="0.5"', 1.0),
            "embedder_queue_seconds_bucket ": (f',{lane},le="+Inf"', 1.0),
            "embedder_decode_seconds_sum": (f",{lane}", 0.1),
            "embedder_decode_seconds_count": (f",{lane}", 1.0),
            "embedder_images_total": (f',{lane},result="embedded"', 1.0),
        }
        for metric, (labels, rate) in rates.items():
            yield {"series": f"{metric.strip()}{{{place}{labels}}}", "values": f"0+{load * rate * 30}x120"}
        info = f'{place},fingerprint="f{model}",precision="float32",threads="2"'
        yield {"series": f"embedder_model_info{{{info}}}", "values": "1x120"}
        yield {"series": f"embedder_seconds_per_image{{{place}}}", "values": "0.5x120"}
        yield {"series": f"embedder_queue_size{{{place},{lane}}}", "values": "3x120"}

    def _expected(self) -> Iterator[tuple[str, list[Yaml]]]:
        replicas = range(self.replicas)
        busy = [self.of(replica) for replica in replicas]
        pairs = [(r, m) for r in replicas for m in range(len(self.loads)) if self.load(r, m) is not None]
        shop = 'namespace="shop"'
        yield "imagesearch:embedder_utilisation:ratio2m", _samples({shop: sum(busy) / self.replicas})
        yield "imagesearch:embedder_queue_seconds:mean2m", _samples({shop: 0.5})
        for rule in ("load", "share"):
            yield (
                f'imagesearch:instance_{rule}:rate5m{{job="embedder"}}',
                _samples({f'job="embedder",{shop},instance="e{replica}"': busy[replica] for replica in replicas}),
            )
        panels = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in _panels()}
        runs, full = panels["Utilisation"]
        yield runs, _samples({f'instance="e{replica}"': busy[replica] for replica in replicas})
        yield full, _samples({f'instance="e{replica}"': busy[replica] / 2 for replica in replicas})
        (batch,) = panels["Images in a run"]
        yield batch, _samples({f'instance="e{r}",model="m{m}"': 1 for r, m in pairs if self.load(r, m)})
        (waiting,) = panels["Images that wait"]
        yield waiting, _samples({'lane="interactive"': 3 * len(pairs)})
        (images,) = panels["Images"]
        yield images, _samples({'lane="interactive",result="embedded"': sum(self.loads)})
        (shares,) = panels["Share of each"]
        yield (
            shares,
            _samples(
                {f'job="embedder",{shop},instance="e{replica}"': busy[replica] / sum(busy) for replica in replicas}
            ),
        )


def _samples(values: dict[str, float]) -> list[Yaml]:
    return [{"labels": f"{{{labels}}}", "value": round(value, 4)} for labels, value in values.items()]


def _panels() -> Iterator[Yaml]:
    """The dashboard's panels, with Grafana's variables as they are for all instances."""
    text = {"$__rate_interval": "5m", "$namespace": ".*", "$instance": ".*", "$job": "embedder"}
    for panel in copy.deepcopy(dashboard()["panels"]):
        for target in panel.get("targets", ()):
            for variable, value in text.items():
                target["expr"] = target["expr"].replace(variable, value)
        if panel["type"] != "row":
            yield panel


FLEETS = (
    *(
        Fleet(replicas, loads)
        for replicas in (1, 3)
        for loads in ((0.75,), (0.5, 0.25), (0.25, 0.25, 0.125, 0.125, 0.0))
    ),
    *(Fleet(3, loads, rare=True) for loads in ((0.75, 0.5), (0.75, 0.375, 0.375, 0.0, 0.25), (3.0, 0.0))),
)
_RATE = 'rate(embedder_inference_seconds_sum{job="embedder"}[2m])'
_BUSY = f"sum by (namespace, job, instance, pod) ({_RATE})"
_LOAD = "by (namespace, job, instance, pod) (imagesearch"
_SHARE = "group_left avg by (namespace, job, model) (imagesearch:model_load:rate5m)"
_ENOUGH = "(increase(embedder_queue_seconds_count"
_EMBEDDERS = 'scalar(count(grpc_server_serving{job="embedder"}))'
# By name: a part of a rule, and what is wrong in its place.
FAULTS = {
    "utilisation as the mean of the models": (_BUSY, _RATE),
    "utilisation as the sum of the replicas": (f"clamp_max({_BUSY}, 1)", f"sum by (namespace) ({_RATE})"),
    "one model's load for that of all": (f"sum {_LOAD}", f"max {_LOAD}"),
    "one share for all instances": (_SHARE, f"group_left avg by (namespace, job) (sum {_LOAD}:model_load:rate5m))"),
    "several models as different weights": ("by (namespace, job, model) (count", "by (namespace, job) (count"),
    "one model's slow images among all": ("sum by (namespace, job, model, le)", "sum by (namespace, job, le)"),
    "few slow images of each model": (f"by (namespace, job) {_ENOUGH}", f"by (namespace, job, model) {_ENOUGH}"),
    "decoding of all embedders together": ("> 0.7\n", f"> 0.7 * {_EMBEDDERS}\n"),
}
