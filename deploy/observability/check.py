"""Check that rules, rule tests, dashboard and docs fit each other and the metrics that the services expose.

`python -m deploy.observability.check` prints the problems. `make check-deploy` also runs the tests of the rules.
"""

import itertools
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import yaml

from deploy.checks.tools import ROOT, ProblemError, prometheus_tool, run
from deploy.observability import generate
from deploy.observability.dashboard import COLUMNS, SOURCE, dashboard
from deploy.observability.exposed import METHODS, STAGES, exposed
from deploy.observability.promql import groupings, selectors
from docs.markdown import anchors
from embedder_service.core.types import Lane

Yaml: TypeAlias = dict[str, Any]

HERE = Path(__file__).parent
RUNBOOK = ROOT / "docs" / "operate" / "alerts.md"
METRICS_PAGE = ROOT / "docs" / "reference" / "metrics.md"
API_PAGE = ROOT / "docs" / "reference" / "api.md"
RULES = sorted((HERE / "rules").glob("*.yml"))
TESTS = sorted((HERE / "tests").glob("*.yml"))
SEVERITIES = ("page", "ticket")
# Metrics of Prometheus, of the kubelet (cAdvisor) and of kube-state-metrics.
FOREIGN_METRICS = frozenset(
    {
        "up",
        "ALERTS",
        "container_cpu_cfs_periods_total",
        "container_cpu_cfs_throttled_periods_total",
        "container_memory_working_set_bytes",
        "container_spec_memory_limit_bytes",
        "kube_pod_container_resource_limits",
    }
)
# Labels that Prometheus adds to scraped series.
TARGET_LABELS = frozenset({"job", "instance", "namespace", "pod", "container"})
ALERT_LABELS = frozenset({"severity", "app", "alertname", "alertstate"})
# Results of images that are not refused.
RESULTS = frozenset({"embedded", "shared", "cached"})


def problems() -> list[str]:
    """Return all problems."""
    return [
        *outdated_files(),
        *dashboard_expressions(),
        *incomplete_alerts(),
        *untested_alerts(),
        *unordered_tests(),
        *itertools.chain.from_iterable(unknown_series(name, expr) for name, expr in expressions()),
        *wrong_objective(),
        *undocumented_metrics(),
        *broken_panels(),
    ]


def rules() -> list[Yaml]:
    """Return every rule of all files."""
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[tuple[str, str]]:
    """Return every expression of the rules and the dashboard, each after the name of its rule or panel."""
    in_rules = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    return in_rules + [(f"panel {panel['title']}", expr) for panel in _panels() for expr in _queries(panel)]


def outdated_files() -> Iterator[str]:
    """Yield the generated files that are out of date."""
    for path in generate.outdated():
        yield f"{path.relative_to(ROOT)} is out of date: run python -m deploy.observability.generate"


def dashboard_expressions() -> Iterator[str]:
    """Yield promtool's errors for the dashboard's expressions, checked as rules."""
    queries = [re.sub(r"\$__\w+", "5m", expr) for panel in _panels() for expr in _queries(panel)]
    group = {"name": "panels", "rules": [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(queries)]}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"groups": [group]}, file)
        file.flush()
        try:
            run(prometheus_tool("promtool"), "check", "rules", file.name)
        except ProblemError as error:
            yield f"dashboard: {error}"


def incomplete_alerts() -> Iterator[str]:
    """Yield the alerts without a valid severity, a text, or a section in the runbook."""
    page, sections = RUNBOOK.relative_to(ROOT), anchors(RUNBOOK.read_text())
    for rule in rules():
        if "alert" not in rule:
            continue
        name, annotations = rule["alert"], rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in SEVERITIES:
            yield f"{name}: severity must be one of {', '.join(SEVERITIES)}"
        for annotation in ("summary", "description"):
            if not annotations.get(annotation):
                yield f"{name} has no {annotation}"
        if annotations.get("runbook_url") != f"{page}#{name.lower()}":
            yield f"{name}: runbook_url must be {page}#{name.lower()}"
        elif name.lower() not in sections:
            yield f"{name} has no section in {page}"


def unordered_tests() -> Iterator[str]:
    """Yield the test files whose order of groups is wrong.

    Without an order, promtool may evaluate an alert before the recording rules that it reads.
    """
    recording_first = sorted(RULES, key=lambda path: path.name != "recording.yml")
    order = [group["name"] for path in recording_first for group in yaml.safe_load(path.read_text())["groups"]]
    for path in TESTS:
        if yaml.safe_load(path.read_text()).get("group_eval_order") != order:
            yield f"{path.name}: group_eval_order must be {order}"


def untested_alerts() -> Iterator[str]:
    """Yield the alerts that fire in no test."""
    fired: set[str] = set()
    for test in (test for path in TESTS for test in yaml.safe_load(path.read_text())["tests"]):
        fired |= {each["alertname"] for each in test.get("alert_rule_test", ()) if each.get("exp_alerts")}
        for each in test.get("promql_expr_test", ()):
            if 'alertstate="firing"' not in each["expr"]:
                continue
            for sample in each.get("exp_samples", ()):
                fired |= set(re.findall(r'alertname="(\w+)"', sample["labels"]))
    for rule in rules():
        if "alert" in rule and rule["alert"] not in fired:
            yield f"{rule['alert']} fires in no test"


def unknown_series(name: str, expr: str) -> Iterator[str]:
    """Yield the metrics, labels and label values of an expression that no series has."""
    metrics, recorded = exposed(), {rule["record"] for rule in rules() if "record" in rule}
    labels = TARGET_LABELS.union(ALERT_LABELS, *metrics.values())
    for label in groupings(expr) - labels:
        yield f"{name}: no series has the label {label}"
    for selector in selectors(expr):
        if selector.metric in FOREIGN_METRICS or selector.metric in recorded:
            continue
        if selector.metric not in metrics:
            yield f"{name}: no service exposes {selector.metric}"
            continue
        known = _label_values(metrics[selector.metric])
        for label, _, values in selector.labels:
            if label not in known and label not in TARGET_LABELS:
                yield f"{name}: {selector.metric} has no label {label}"
            for value in values:
                if label in known and value not in known[label]:
                    yield f"{name}: {selector.metric} has no {label}={value}"


def _label_values(labels: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the values that the labels of a metric can have."""
    reasons = set(re.findall(r"`([A-Z_]+)`", API_PAGE.read_text())) | {"INTERNAL"}
    possible = {
        "grpc_method": set(METHODS),
        "grpc_code": {code.name for code in grpc.StatusCode},
        "reason": reasons,
        "result": reasons | RESULTS,
        "lane": {lane.value for lane in Lane},
        "stage": set(STAGES),
    }
    return {label: possible.get(label, values) for label, values in labels.items()}


def wrong_objective() -> Iterator[str]:
    """Yield the rules of the objective on faults that exclude anything but the streams."""
    streams = {name for name, each in METHODS.items() if each.client_streaming or each.server_streaming}
    for rule in rules():
        if not rule.get("record", "").startswith("imagesearch:search_faults"):
            continue
        for selector in selectors(rule["expr"]):
            for label, operator, values in selector.labels:
                if label == "grpc_method" and (operator, set(values)) != ("!~", streams - {"EmbedStream"}):
                    yield f"{rule['record']}: the streams of the search service are {', '.join(sorted(streams))}"


def undocumented_metrics() -> Iterator[str]:
    """Yield the differences between the page of metrics and the metrics that the services expose."""
    metrics = {
        re.sub("_(count|sum|bucket|created)$", "", name): {label.removeprefix("grpc_") for label in labels} - {"le"}
        for name, labels in exposed().items()
        if name.startswith(("grpc_server_", "embedder_")) and not name.endswith("_created")
    }
    documented: set[str] = set()
    rows = re.findall(r"^\| (`(?:grpc|embedder)_.*?) \|(.*?)\|", METRICS_PAGE.read_text(), flags=re.MULTILINE)
    for names, labels in rows:
        row = set(re.findall(r"`(\w+)`", names))
        documented |= row
        expected = set().union(*(metrics.get(name, set()) for name in row))
        if expected != set(re.findall(r"\w+", labels)):
            text = ", ".join(sorted(expected)) or "none"
            yield f"{METRICS_PAGE.name}: {', '.join(sorted(row))} must have the labels: {text}"
    if documented != set(metrics):
        yield f"{METRICS_PAGE.name}: the page and the services differ in {', '.join(sorted(documented ^ set(metrics)))}"


def _panels() -> list[Yaml]:
    """Return the dashboard's panels without the headings of rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def _queries(panel: Yaml) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def broken_panels() -> Iterator[str]:
    """Yield the panels that overlap, or that lack an id, a text or a unit of their own."""
    panels = dashboard()["panels"]
    if len({panel["id"] for panel in panels}) < len(panels):
        yield "dashboard: two panels have the same id"
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        position = panel["gridPos"]
        cells = {(position["x"] + x, position["y"] + y) for x in range(position["w"]) for y in range(position["h"])}
        if cells & taken or position["x"] + position["w"] > COLUMNS:
            yield f"panel {panel['title']} overlaps another panel or exceeds the width"
        taken |= cells
    for panel in _panels():
        required = panel["description"], panel["fieldConfig"]["defaults"].get("unit"), panel["targets"]
        if not all(required) or any(not target["legendFormat"] for target in panel["targets"]):
            yield f"panel {panel['title']} lacks a description, a unit, a query or a legend"
        if any(each["datasource"] != SOURCE for each in (panel, *panel["targets"])):
            yield f"panel {panel['title']} does not use the dashboard's data source"


def main() -> None:
    """Print the problems, and exit with 1 if there are any."""
    sys.exit("\n".join(problems()) or None)


if __name__ == "__main__":
    main()
