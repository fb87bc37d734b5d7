"""Test the rules with one, two and five models, and with several replicas.

promtool runs two kinds of tests. The first kind spreads the load of `tests/*.yml` over several models or replicas; the
expected results must not change. The second kind are fleets of embedders, whose expected values are calculated.
"""

import copy
import re
import tempfile
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from deploy.checks.tools import ProblemError, prometheus_tool, run
from deploy.observability.exposed import exposed
from deploy.observability.fleets import FLEETS
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
# The share of each replica in the calls.
REPLICAS = ("0.5", "0.25", "0.25")
# One value, or several: 5, 5x20, 0+1.5x20, _, _x20, stale.
_VALUE = re.compile(r"(?P<start>\d+(?:\.\d+)?)(?:(?P<sign>[+-])(?P<step>\d+(?:\.\d+)?))?(?P<count>x\d+)?")


def problems() -> Iterator[str]:
    """Yield promtool's errors for the rules with any number of models, and with several replicas."""
    documents = {name: _spread_tests(shares) for name, shares in LOADS.items()}
    yield from _errors(HERE / "rules", {**_fleets(), **documents, "three replicas": _replicated_tests()})


def unnoticed() -> Iterator[str]:
    """Yield the faults of rules that no test of this module notices. Raise ProblemError if a fault is not PromQL."""
    documents = {**_fleets(), "two models": _spread_tests(LOADS["two models"])}
    for name, (right, wrong) in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            texts = {path.name: path.read_text() for path in (HERE / "rules").glob("*.yml")}
            if sum(text.count(right) for text in texts.values()) != 1:
                yield f"{name}: exactly one rule must contain {right}"
                continue
            for file, text in texts.items():
                (Path(folder) / file).write_text(text.replace(right, wrong))
            run(prometheus_tool("promtool"), "check", "rules", *Path(folder).iterdir())
            if next(_errors(Path(folder), documents), None) is None:
                yield name


def _errors(rules: Path, documents: dict[str, Yaml]) -> Iterator[str]:
    """Yield promtool's errors for the rules in a folder and the test documents, by name."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, document) in enumerate(documents.items()):
            path = Path(folder) / f"{number}.yml"
            path.write_text(yaml.safe_dump({**document, "rule_files": [f"{rules}/*.yml"]}))
            try:
                run(prometheus_tool("promtool"), "test", "rules", path)
            except ProblemError as error:
                yield f"{name}: {error}"


def _fleets() -> dict[str, Yaml]:
    return {"fleets": _document([fleet.test() for fleet in FLEETS])}


def _document(tests: list[Yaml]) -> Yaml:
    any_test: Yaml = yaml.safe_load(TESTS[0].read_text())
    order = any_test["group_eval_order"]
    return {"evaluation_interval": "1m", "group_eval_order": order, "tests": tests}


def _spread_tests(shares: Sequence[str]) -> Yaml:
    """Return the tests that have metrics of models, with their load spread over models by `shares`."""
    tests = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    return _document([_spread_test(test, shares) for test in tests if any(map(_has_model, test["input_series"]))])


def _replicated_tests() -> Yaml:
    """Return the tests that count calls, with their calls spread over three instances."""
    tests = [test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    return _document(
        [
            {**test, "input_series": [each for old in test["input_series"] for each in _replicated_series(old)]}
            for test in tests
            if any(map(_counts_calls, test["input_series"]))
        ]
    )


def _counts_calls(series: Yaml) -> bool:
    """Return whether a series counts calls, and does not test how evenly they are spread."""
    (selector,) = selectors(series["series"])
    kind = selector.metric.rpartition("_")[2]
    return (
        selector.metric.startswith("grpc_server_")
        and kind in ("total", "bucket", "count")
        and "_started_" not in selector.metric
    )


def _replicated_series(series: Yaml) -> Iterator[Yaml]:
    if not _counts_calls(series):
        yield series
        return
    (selector,) = selectors(series["series"])
    labels = {label: values[0] for label, _, values in selector.labels}
    for number, share in enumerate(REPLICAS):
        instance = {"instance": f"{labels.get('instance', 'i')}-{number}"}
        yield {"series": _text(selector, labels | instance), "values": _parts(series["values"], share)}


def _has_model(series: Yaml) -> bool:
    (selector,) = selectors(series["series"])
    return "model" in exposed().get(selector.metric, {})


def _spread_test(test: Yaml, shares: Sequence[str]) -> Yaml:
    series = [each for old in test["input_series"] for each in _spread_series(old, shares)]
    # Instances with different weights of one model have the same weights of all other models.
    unique = {each["series"]: each for each in series}
    return {**copy.deepcopy(test), "input_series": list(unique.values())}


def _spread_series(series: Yaml, shares: Sequence[str]) -> Iterator[Yaml]:
    (selector,) = selectors(series["series"])
    labels = {label: values[0] for label, _, values in selector.labels}
    if labels.get("job") != "embedder" or not _has_model(series):
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
            model = {"model": f"model-{number}"}
            yield {"series": _text(selector, labels | model), "values": _parts(series["values"], share)}


def _text(selector: Selector, labels: dict[str, str]) -> str:
    return f"{selector.metric}{{{','.join(f'{label}={chr(34)}{value}{chr(34)}' for label, value in labels.items())}}}"


def _parts(values: str, share: str) -> str:
    return " ".join(_part(value, share) for value in str(values).split())


def _part(value: str, share: str) -> str:
    """Return a share of a value in promtool's notation."""
    found = _VALUE.fullmatch(value)
    if found is None:
        return value
    step = f"{found['sign']}{Decimal(found['step']) * Decimal(share):f}" if found["step"] else ""
    return f"{Decimal(found['start']) * Decimal(share):f}{step}{found['count'] or ''}"


_RATE = 'rate(embedder_inference_seconds_sum{job="embedder"}[2m])'
_BUSY = f"sum by (namespace, job, instance, pod) ({_RATE})"
_LOAD = "by (namespace, job, instance, pod) (imagesearch"
_SHARE = "group_left avg by (namespace, job, model) (imagesearch:model_load:rate5m)"
_ENOUGH = "(increase(embedder_queue_seconds_count"
_EMBEDDERS = 'scalar(count(grpc_server_serving{job="embedder"}))'
# By name: a part of a rule, and its wrong replacement.
FAULTS = {
    "utilisation as the mean of the models": (_BUSY, _RATE),
    "utilisation as the sum of the replicas": (f"clamp_max({_BUSY}, 1)", f"sum by (namespace) ({_RATE})"),
    "the load of one model instead of all": (f"sum {_LOAD}", f"max {_LOAD}"),
    "the same share for all instances": (
        _SHARE,
        f"group_left avg by (namespace, job) (sum {_LOAD}:model_load:rate5m))",
    ),
    "several models as different weights": ("by (namespace, job, model) (count", "by (namespace, job) (count"),
    "slow images of one model hidden among all": ("sum by (namespace, job, model, le)", "sum by (namespace, job, le)"),
    "too few slow images of each model": (f"by (namespace, job) {_ENOUGH}", f"by (namespace, job, model) {_ENOUGH}"),
    "decoding of all embedders together": ("> 0.7\n", f"> 0.7 * {_EMBEDDERS}\n"),
}
