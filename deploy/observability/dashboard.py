"""The Grafana dashboard, as a list of rows of panels; `generate.py` writes its JSON."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
HEIGHT = 8

# What every query asks for; a label that a series does not have matches ".*", which is what "All" stands for.
PLACE = 'namespace=~"$namespace",instance=~"$instance"'
EMBEDDER = f'job="embedder",{PLACE}'
SEARCH = f'job="search",{PLACE}'
BOTH = f'job=~"$job",{PLACE}'
CONTAINERS = 'container=~"embedder|search",namespace=~"$namespace"'
QUANTILES = ("0.5", "0.95", "0.99")


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and what its lines are called."""

    expr: str
    legend: str = "{{job}} {{instance}}"


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8
    steps: tuple[tuple[str, float], ...] = ()
    """Colours from these values on; below them it is green."""
    stacked: bool = False
    most: float | None = None
    """The upper end of the axis."""


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


def seconds(title: str, description: str, metric: str, selector: str, *by: str) -> Panel:
    """A panel of three quantiles of a histogram of seconds, for each value of the labels `by`."""
    series = f"sum by ({', '.join((*by, 'le'))}) (rate({metric}_bucket{{{selector}}}[$__rate_interval]))"
    legend = "".join(f"{{{{{label}}}}} " for label in by)
    queries = tuple(
        Query(f"histogram_quantile({quantile}, {series})", f"{legend}p{float(quantile) * 100:g}")
        for quantile in QUANTILES
    )
    return Panel(title, description, "s", queries)


def stage(name: str) -> str:
    """The selector of a stage of Search calls."""
    return f'{SEARCH},grpc_method="Search",stage="{name}"'


ROWS = (
    Row(
        "At a glance",
        (
            Panel(
                "Serving",
                "Instances that report SERVING.",
                "short",
                (Query(f"sum by (job) (grpc_server_serving{{{BOTH}}})", "{{job}}"),),
                kind="stat",
                width=5,
                steps=(("red", 0), ("green", 1)),
            ),
            Panel(
                "Alerts",
                "Alerts of these rules that fire now.",
                "short",
                (Query('count(ALERTS{app="imagesearch",alertstate="firing"}) or vector(0)', "firing"),),
                kind="stat",
                width=4,
                steps=(("red", 1),),
            ),
            Panel(
                "Failed calls, 1 h",
                "Share of the search service's unary calls that ended in a fault of the server. Objective: 0.1 % in 30 "
                "days; red from the rate on that pages.",
                "percentunit",
                (Query('max(imagesearch:search_faults:ratio_rate1h{namespace=~"$namespace"})', "failed"),),
                kind="stat",
                width=5,
                steps=(("yellow", 0.001), ("red", 0.0144)),
            ),
            Panel(
                "Slow searches, 1 h",
                "Share of the Search calls that took longer than 1 s. Objective: 1 % in 30 days; red from the rate on "
                "that pages.",
                "percentunit",
                (Query('max(imagesearch:search_slow:ratio_rate1h{namespace=~"$namespace"})', "slow"),),
                kind="stat",
                width=5,
                steps=(("yellow", 0.01), ("red", 0.144)),
            ),
            Panel(
                "Embedder's utilisation",
                "Share of the time in which any network runs, the mean of the replicas. The autoscaler uses it.",
                "percentunit",
                (Query('max(imagesearch:embedder_utilisation:ratio2m{namespace=~"$namespace"})', "busy"),),
                kind="stat",
                width=5,
                steps=(("yellow", 0.8), ("red", 0.95)),
            ),
        ),
    ),
    Row(
        "Throughput",
        (
            Panel(
                "Images",
                "Images that the embedders answer, by lane and by what came of them.",
                "suffix: images/s",
                (
                    Query(
                        f"sum by (lane, result) (rate(embedder_images_total{{{EMBEDDER}}}[$__rate_interval]))",
                        "{{lane}} {{result}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Calls by method",
                "Calls that ended. A stream is one call, whatever it carried.",
                "reqps",
                (
                    Query(
                        f"sum by (job, grpc_method) (rate(grpc_server_handled_total{{{BOTH}}}[$__rate_interval]))",
                        "{{job}} {{grpc_method}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Calls by code",
                "Calls that ended, by gRPC's status code.",
                "reqps",
                (
                    Query(
                        f"sum by (job, grpc_code) (rate(grpc_server_handled_total{{{BOTH}}}[$__rate_interval]))",
                        "{{job}} {{grpc_code}}",
                    ),
                ),
                stacked=True,
            ),
        ),
    ),
    Row(
        "Latency",
        (
            seconds(
                "Whole call: Search",
                "From the begin of a Search call to its end, in the search service.",
                "grpc_server_handling_seconds",
                f'{SEARCH},grpc_method="Search"',
            ),
            seconds(
                "Embed, seen by the search service",
                "Stage embed: from the call of the embedder to its answer. Of searches by image only.",
                "grpc_server_stage_seconds",
                stage("embed"),
            ),
            seconds(
                "Store",
                "Stage store: the time that a Search call waits for Milvus.",
                "grpc_server_stage_seconds",
                stage("store"),
            ),
            seconds(
                "Queue",
                "Time that a decoded image waits for its run.",
                "embedder_queue_seconds",
                EMBEDDER,
                "model",
                "lane",
            ),
            seconds(
                "Decode", "Time that a thread takes to decode an image.", "embedder_decode_seconds", EMBEDDER, "lane"
            ),
            seconds("Inference", "Time of a run of a network.", "embedder_inference_seconds", EMBEDDER, "model"),
        ),
    ),
    Row(
        "Queue",
        (
            Panel(
                "Images that wait",
                "Decoded images that wait for the network, in all replicas.",
                "short",
                (Query(f"sum by (lane) (embedder_queue_size{{{EMBEDDER}}})", "{{lane}}"),),
                width=6,
            ),
            Panel(
                "Images under way",
                "The most of one replica, of each lane. The line is the default of EMBEDDER_MAX_PENDING and "
                "EMBEDDER_MAX_PENDING_BULK: at it Embed is refused, and EmbedStream waits.",
                "short",
                (Query(f"max by (lane) (embedder_images_in_flight{{{EMBEDDER}}})", "{{lane}}"),),
                width=6,
                steps=(("red", 64),),
            ),
            Panel(
                "Images in a run",
                "The mean batch. Batches grow while the networks are busy.",
                "short",
                (
                    Query(
                        f"sum by (instance, model) (rate(embedder_batch_size_sum{{{EMBEDDER}}}[$__rate_interval]))"
                        " / (sum by (instance, model)"
                        f" (rate(embedder_batch_size_count{{{EMBEDDER}}}[$__rate_interval])) > 0)",
                        "{{instance}} {{model}}",
                    ),
                ),
                width=6,
            ),
            Panel(
                "Utilisation",
                "Share of the time in which any network of a replica runs, and the share that its images would take in "
                "full batches.",
                "percentunit",
                (
                    Query(
                        f"sum by (instance) (rate(embedder_inference_seconds_sum{{{EMBEDDER}}}[$__rate_interval]))",
                        "{{instance}} runs",
                    ),
                    Query(
                        "sum by (instance) ("
                        f"sum by (instance, model) (rate(embedder_batch_size_sum{{{EMBEDDER}}}[$__rate_interval]))"
                        f" * sum by (instance, model) (embedder_seconds_per_image{{{EMBEDDER}}}))",
                        "{{instance}} in full batches",
                    ),
                ),
                width=6,
                most=1,
            ),
        ),
    ),
    Row(
        "Refusals",
        (
            Panel(
                "Calls that ended in an error",
                "By reason. OVERLOADED, OUT_OF_MEMORY, MILVUS_* and EMBEDDER_UNAVAILABLE are the servers'; most "
                "others are the callers'.",
                "reqps",
                (
                    Query(
                        f"sum by (job, reason) (rate(grpc_server_refused_total{{{BOTH}}}[$__rate_interval]))",
                        "{{job}} {{reason}}",
                    ),
                ),
                width=12,
                stacked=True,
            ),
            Panel(
                "Embed calls refused as OVERLOADED",
                "Share of all Embed calls; it pages above 5 %.",
                "percentunit",
                (Query('imagesearch:embedder_overloaded:ratio_rate5m{namespace=~"$namespace"}', "{{namespace}}"),),
                width=12,
                steps=(("red", 0.05),),
            ),
        ),
    ),
    Row(
        "Milvus",
        (
            Panel(
                "Part of a search spent in Milvus",
                "Time in the stage store, of the whole time of Search calls.",
                "percentunit",
                (
                    Query(
                        f"sum(rate(grpc_server_stage_seconds_sum{{{stage('store')}}}[$__rate_interval]))"
                        f' / sum(rate(grpc_server_handling_seconds_sum{{{SEARCH},grpc_method="Search"}}'
                        "[$__rate_interval]))",
                        "Milvus",
                    ),
                ),
                width=12,
                most=1,
            ),
            Panel(
                "Refusals because of Milvus",
                "Calls of the search service that failed because Milvus did not answer, was late, full or limited.",
                "reqps",
                (
                    Query(
                        "sum by (reason) (rate(grpc_server_refused_total"
                        f'{{{SEARCH},reason=~"MILVUS_UNAVAILABLE|MILVUS_TIMEOUT|MILVUS_FULL|MILVUS_RATE_LIMITED"}}'
                        "[$__rate_interval]))",
                        "{{reason}}",
                    ),
                ),
                width=12,
            ),
        ),
    ),
    Row(
        "Memory and processors",
        (
            Panel(
                "Resident memory",
                "Of each process.",
                "bytes",
                (Query(f"process_resident_memory_bytes{{{BOTH}}}"),),
                width=6,
            ),
            Panel(
                "Processors",
                "Processors that each process keeps busy.",
                "short",
                (Query(f"rate(process_cpu_seconds_total{{{BOTH}}}[$__rate_interval])"),),
                width=6,
            ),
            Panel(
                "Memory of the limit",
                "Working set of the container, of its limit. In Kubernetes only, with cAdvisor and kube-state-metrics.",
                "percentunit",
                (
                    Query(
                        f"max by (pod, container) (container_memory_working_set_bytes{{{CONTAINERS}}})"
                        " / max by (pod, container)"
                        f' (kube_pod_container_resource_limits{{{CONTAINERS},resource="memory"}}'
                        f" or container_spec_memory_limit_bytes{{{CONTAINERS}}} > 0)",
                        "{{pod}}",
                    ),
                ),
                width=6,
                steps=(("red", 0.9),),
                most=1,
            ),
            Panel(
                "Throttled",
                "Share of the periods in which the container used up its quota of processors. In Kubernetes only.",
                "percentunit",
                (
                    Query(
                        "sum by (pod, container)"
                        f" (rate(container_cpu_cfs_throttled_periods_total{{{CONTAINERS}}}[$__rate_interval]))"
                        " / sum by (pod, container)"
                        f" (rate(container_cpu_cfs_periods_total{{{CONTAINERS}}}[$__rate_interval]))",
                        "{{pod}}",
                    ),
                ),
                width=6,
                steps=(("red", 0.1),),
            ),
        ),
    ),
    Row(
        "Replicas",
        (
            Panel(
                "Share of each",
                "Of the images (embedder) or calls (search) of all replicas of a service.",
                "percentunit",
                (
                    Query(
                        f"imagesearch:instance_load:rate5m{{{BOTH}}} / on (namespace, job) group_left"
                        f" sum by (namespace, job) (imagesearch:instance_load:rate5m{{{BOTH}}})",
                    ),
                ),
                most=1,
            ),
            Panel(
                "Age",
                "Time since the process was started.",
                "s",
                (Query(f"time() - process_start_time_seconds{{{BOTH}}}"),),
            ),
            Panel(
                "Models",
                "What each embedder serves. A model should have one fingerprint.",
                "short",
                (Query(f"embedder_model_info{{{EMBEDDER}}}", "{{instance}}"),),
                kind="table",
            ),
        ),
    ),
)


def dashboard() -> Json:
    """The dashboard as Grafana reads it."""
    return {
        "uid": "imagesearch",
        "title": "imagesearch",
        "description": "Both services: throughput, latency by stage, queues, refusals, Milvus, resources, replicas.",
        "tags": ["imagesearch"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "refresh": "30s",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("namespace", 'grpc_server_serving{job=~"embedder|search"}'),
                _variable(
                    "job", 'grpc_server_serving{job=~"embedder|search",namespace=~"$namespace"}', "embedder|search"
                ),
                _variable("instance", 'grpc_server_serving{job=~"$job",namespace=~"$namespace"}'),
            ]
        },
        "panels": list(_placed(ROWS)),
    }


def _variable(label: str, series: str, everything: str = ".*") -> Json:
    query = f"label_values({series}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": label},
        # When the time range changes: an instance may be gone.
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "multi": True,
        "allValue": everything,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _placed(rows: Sequence[Row]) -> list[Json]:
    """All rows and panels with their places: panels from left to right, in lines of 24 columns."""
    numbers = itertools.count(1)
    placed: list[Json] = []
    x = y = 0
    for row in rows:
        placed.append(
            {
                "id": next(numbers),
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        x, y = 0, y + 1
        height = HEIGHT // 2 if row.panels[0].kind == "stat" else HEIGHT
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            place = {"x": x, "y": y, "w": panel.width, "h": height}
            placed.append({"id": next(numbers), "gridPos": place, **_panel(panel)})
            x += panel.width
        y += height
    return placed


def _panel(panel: Panel) -> Json:
    instant = panel.kind != "timeseries"
    targets = [
        {
            "refId": letter,
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "instant": instant,
            "range": not instant,
            "format": "table" if panel.kind == "table" else "time_series",
        }
        for letter, query in zip("ABC", panel.queries, strict=False)
    ]
    steps = [{"color": color, "value": value} for color, value in (("green", None), *panel.steps)]
    defaults: Json = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "fillOpacity": 25 if panel.stacked else 5,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.steps else "off"},
            "showPoints": "never",
        }
    if panel.most is not None:
        defaults["max"] = panel.most
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": OPTIONS[panel.kind],
        "targets": targets,
        "transformations": TRANSFORMATIONS.get(panel.kind, []),
    }


OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
}
TRANSFORMATIONS: dict[str, list[Json]] = {
    "table": [
        {
            "id": "organize",
            "options": {
                "excludeByName": dict.fromkeys(
                    ("Time", "Value", "__name__", "job", "container", "endpoint", "pod", "service"), True
                ),
                "indexByName": {},
                "renameByName": {},
            },
        }
    ]
}
