"""The Grafana dashboard: lays out the rows of `panels.py`; `generate.py` writes the JSON."""

import itertools
from typing import Any, TypeAlias

from deploy.observability.panels import ROWS, Panel

Json: TypeAlias = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
HEIGHT = 8


def dashboard() -> Json:
    """Return the dashboard as Grafana's JSON."""
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
        "panels": _placed(),
    }


def _variable(label: str, series: str, everything: str = ".*") -> Json:
    query = f"label_values({series}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": label},
        # Refresh when the time range changes, because instances come and go.
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "multi": True,
        "allValue": everything,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _placed() -> list[Json]:
    """Return all rows and panels with their positions, from left to right in a grid of 24 columns."""
    numbers = itertools.count(1)
    placed: list[Json] = []
    x = y = 0
    for title, panels in ROWS.items():
        placed.append(
            {
                "id": next(numbers),
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        x, y = 0, y + 1
        height = HEIGHT // 2 if panels[0].kind == "stat" else HEIGHT
        for panel in panels:
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
        for letter, query in zip("ABC", (panel.query, *panel.further_queries), strict=False)
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
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
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
