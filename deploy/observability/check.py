"""Whether rules, tests, dashboard and runbook fit each other, and what the services show.

`python -m deploy.observability.check` prints what does not; `make check-deploy` also runs the tests of the rules.
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
PAGE = ROOT / "docs" / "guides" / "operate.md"
RULES = sorted((HERE / "rules").glob("*.yml"))
TESTS = sorted((HERE / "tests").glob("*.yml"))
SEVERITIES = ("page", "ticket")
# Metrics of Prometheus itself, of the kubelet (cAdvisor) and of kube-state-metrics.
OTHERS = frozenset(
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
# Labels that Prometheus gives to what it scrapes.
TARGET = frozenset({"job", "instance", "namespace", "pod", "container"})
# What images come to that are not refused.
RESULTS = frozenset({"embedded", "shared", "cached"})


def problems() -> list[str]:
    """All that is wrong, in words."""
    return [
        *_generated(),
        *_promtool(),
        *_alerts(),
        *_untested(),
        *_unordered(),
        *itertools.chain.from_iterable(_unknown(where, expr) for where, expr in expressions()),
        *_objective(),
        *_documented(),
        *_panels(),
    ]


def rules() -> list[Yaml]:
    """Every rule, of all files."""
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[tuple[str, str]]:
    """Every expression of the rules and the dashboard, and where it stands."""
    in_rules = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    return in_rules + [(f"panel {panel['title']}", expr) for panel in _drawn() for expr in _asked(panel)]


def _generated() -> Iterator[str]:
    for path in generate.outdated():
        yield f"{path.relative_to(ROOT)} is out of date: run python -m deploy.observability.generate"


def _promtool() -> Iterator[str]:
    """What promtool says of the dashboard's expressions, as rules. Rules and their tests are its own business."""
    asked = [re.sub(r"\$__\w+", "5m", expr) for panel in _drawn() for expr in _asked(panel)]
    panels = {"name": "panels", "rules": [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(asked)]}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"groups": [panels]}, file)
        file.flush()
        try:
            run(prometheus_tool("promtool"), "check", "rules", file.name)
        except ProblemError as error:
            yield f"dashboard: {error}"


def _alerts() -> Iterator[str]:
    sections = anchors(PAGE.read_text())
    for rule in rules():
        if "alert" not in rule:
            continue
        name, annotations = rule["alert"], rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in SEVERITIES:
            yield f"{name}: severity should be one of {', '.join(SEVERITIES)}"
        for annotation in ("summary", "description"):
            if not annotations.get(annotation):
                yield f"{name} has no {annotation}"
        page, _, anchor = annotations.get("runbook_url", "").partition("#")
        if page != str(PAGE.relative_to(ROOT)) or anchor != name.lower():
            yield f"{name}: runbook_url should be {PAGE.relative_to(ROOT)}#{name.lower()}"
        elif anchor not in sections:
            yield f"{name} has no section in {page}"


def _unordered() -> Iterator[str]:
    """Groups that a test does not order are taken in any order: alerts might lag behind what is recorded."""
    recording_first = sorted(RULES, key=lambda path: path.name != "recording.yml")
    order = [group["name"] for path in recording_first for group in yaml.safe_load(path.read_text())["groups"]]
    for path in TESTS:
        if yaml.safe_load(path.read_text()).get("group_eval_order") != order:
            yield f"{path.name}: group_eval_order should be {order}"


def _untested() -> Iterator[str]:
    """Alerts that fire in no test."""
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


def _unknown(where: str, expr: str) -> Iterator[str]:
    """Metrics, labels and values of labels that nothing shows."""
    shown, recorded = exposed(), {rule["record"] for rule in rules() if "record" in rule}
    labels = TARGET.union(*(metric for metric in shown.values()), {"severity", "app", "alertname", "alertstate"})
    for label in groupings(expr) - labels:
        yield f"{where}: no series has the label {label}"
    for selector in selectors(expr):
        if selector.metric in OTHERS or selector.metric in recorded:
            continue
        if selector.metric not in shown:
            yield f"{where}: nothing shows {selector.metric}"
            continue
        known = _known(shown[selector.metric])
        for label, _, values in selector.labels:
            if label not in known and label not in TARGET:
                yield f"{where}: {selector.metric} has no label {label}"
            for value in values:
                if label in known and value not in known[label]:
                    yield f"{where}: {selector.metric} has no {label}={value}"


def _known(labels: dict[str, set[str]]) -> dict[str, set[str]]:
    """The values that a metric's labels may have."""
    reasons = set(re.findall(r"`([A-Z_]+)`", (ROOT / "docs" / "reference" / "api.md").read_text())) | {"INTERNAL"}
    may = {
        "grpc_method": set(METHODS),
        "grpc_code": {code.name for code in grpc.StatusCode},
        "reason": reasons,
        "result": reasons | RESULTS,
        "lane": {lane.value for lane in Lane},
        "stage": set(STAGES),
    }
    return {label: may.get(label, values) for label, values in labels.items()}


def _objective() -> Iterator[str]:
    """Whether the objective on faults leaves out the streams, and nothing else."""
    streams = {name for name, each in METHODS.items() if each.client_streaming or each.server_streaming}
    for rule in rules():
        if not rule.get("record", "").startswith("imagesearch:search_faults"):
            continue
        for selector in selectors(rule["expr"]):
            for label, how, values in selector.labels:
                if label == "grpc_method" and (how, set(values)) != ("!~", streams - {"EmbedStream"}):
                    yield f"{rule['record']}: the streams of the search service are {', '.join(sorted(streams))}"


def _documented() -> Iterator[str]:
    """Yield the differences between the runbook's table of metrics and the services' metrics."""
    shown = {
        re.sub("_(count|sum|bucket|created)$", "", name): {label.removeprefix("grpc_") for label in labels} - {"le"}
        for name, labels in exposed().items()
        if name.startswith(("grpc_server_", "embedder_")) and not name.endswith("_created")
    }
    told: set[str] = set()
    for names, labels in re.findall(r"^\| (`(?:grpc|embedder)_.*?) \|(.*?)\|", PAGE.read_text(), flags=re.MULTILINE):
        row = set(re.findall(r"`(\w+)`", names))
        told |= row
        has = set().union(*(shown.get(name, set()) for name in row))
        if has != set(re.findall(r"\w+", labels)):
            yield f"{PAGE.name}: {', '.join(sorted(row))} should have the labels {', '.join(sorted(has)) or 'none'}"
    if told != set(shown):
        yield f"{PAGE.name}: the table and the services differ in {', '.join(sorted(told ^ set(shown)))}"


def _drawn() -> list[Yaml]:
    """The dashboard's panels without its headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def _asked(panel: Yaml) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def _panels() -> Iterator[str]:
    """What is wrong with the dashboard's form."""
    panels = dashboard()["panels"]
    if len({panel["id"] for panel in panels}) < len(panels):
        yield "dashboard: two panels have one id"
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        if cells & taken or place["x"] + place["w"] > COLUMNS:
            yield f"panel {panel['title']} lies on another, or sticks out"
        taken |= cells
    for panel in _drawn():
        told = panel["description"], panel["fieldConfig"]["defaults"].get("unit"), panel["targets"]
        if not all(told) or any(not target["legendFormat"] for target in panel["targets"]):
            yield f"panel {panel['title']} lacks a description, a unit, a query or the name of its lines"
        if any(each["datasource"] != SOURCE for each in (panel, *panel["targets"])):
            yield f"panel {panel['title']} asks a data source of its own"


def main() -> None:
    """Prints what is wrong."""
    sys.exit("\n".join(problems()) or None)


if __name__ == "__main__":
    main()
