"""The panels of the Grafana dashboard, in rows."""

from dataclasses import dataclass

# Selectors. "All" stands for ".*", which also matches series without the label.
PLACE = 'namespace=~"$namespace",instance=~"$instance"'
EMBEDDER = f'job="embedder",{PLACE}'
SEARCH = f'job="search",{PLACE}'
BOTH = f'job=~"$job",{PLACE}'
CONTAINERS = 'container=~"embedder|search",namespace=~"$namespace"'
QUANTILES = ("0.5", "0.95", "0.99")


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and the legend of its lines."""

    expr: str
    legend: str = "{{job}} {{instance}}"


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard."""

    title: str
    description: str
    unit: str
    query: Query
    kind: str = "timeseries"
    width: int = 8
    steps: tuple[tuple[str, float], ...] = ()
    """Colours from these values on; green below."""
    stacked: bool = False
    maximum: float | None = None
    """The upper end of the axis."""
    further_queries: tuple[Query, ...] = ()


def quantiles(title: str, description: str, metric: str, selector: str, *by: str) -> Panel:
    """Return a panel with three quantiles of a histogram of seconds, for each value of the labels `by`."""
    series = f"sum by ({', '.join((*by, 'le'))}) (rate({metric}_bucket{{{selector}}}[$__rate_interval]))"
    legend = "".join(f"{{{{{label}}}}} " for label in by)
    first, *further = (
        Query(f"histogram_quantile({quantile}, {series})", f"{legend}p{float(quantile) * 100:g}")
        for quantile in QUANTILES
    )
    return Panel(title, description, "s", first, further_queries=tuple(further))


def stage(name: str) -> str:
    """Return the selector of a stage of Search calls."""
    return f'{SEARCH},grpc_method="Search",stage="{name}"'


ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel(
            "Serving",
            "Instances that report SERVING.",
            "short",
            Query(f"sum by (job) (grpc_server_serving{{{BOTH}}})", "{{job}}"),
            kind="stat",
            width=5,
            steps=(("red", 0), ("green", 1)),
        ),
        Panel(
            "Alerts",
            "Firing alerts of imagesearch.",
            "short",
            Query('count(ALERTS{app="imagesearch",alertstate="firing"}) or vector(0)', "firing"),
            kind="stat",
            width=4,
            steps=(("red", 1),),
        ),
        Panel(
            "Failed calls, 1 h",
            "Share of the search service's unary calls that ended in a server fault. Objective: 0.1 % over 30 "
            "days. Red: a rate that pages.",
            "percentunit",
            Query('max(imagesearch:search_faults:ratio_rate1h{namespace=~"$namespace"})', "failed"),
            kind="stat",
            width=5,
            steps=(("yellow", 0.001), ("red", 0.0144)),
        ),
        Panel(
            "Slow searches, 1 h",
            "Share of Search calls that took longer than 1 s. Objective: 1 % over 30 days. Red: a rate that pages.",
            "percentunit",
            Query('max(imagesearch:search_slow:ratio_rate1h{namespace=~"$namespace"})', "slow"),
            kind="stat",
            width=5,
            steps=(("yellow", 0.01), ("red", 0.144)),
        ),
        Panel(
            "Embedder utilisation",
            "Share of time in which a model runs, mean of the replicas. The autoscaler uses it.",
            "percentunit",
            Query('max(imagesearch:embedder_utilisation:ratio2m{namespace=~"$namespace"})', "busy"),
            kind="stat",
            width=5,
            steps=(("yellow", 0.8), ("red", 0.95)),
        ),
    ),
    "Throughput": (
        Panel(
            "Images",
            "Images that the embedders answer, by lane and result.",
            "suffix: images/s",
            Query(
                f"sum by (lane, result) (rate(embedder_images_total{{{EMBEDDER}}}[$__rate_interval]))",
                "{{lane}} {{result}}",
            ),
            stacked=True,
        ),
        Panel(
            "Calls by method",
            "Calls that ended. A stream is one call, however many items it carried.",
            "reqps",
            Query(
                f"sum by (job, grpc_method) (rate(grpc_server_handled_total{{{BOTH}}}[$__rate_interval]))",
                "{{job}} {{grpc_method}}",
            ),
            stacked=True,
        ),
        Panel(
            "Calls by code",
            "Calls that ended, by gRPC status code.",
            "reqps",
            Query(
                f"sum by (job, grpc_code) (rate(grpc_server_handled_total{{{BOTH}}}[$__rate_interval]))",
                "{{job}} {{grpc_code}}",
            ),
            stacked=True,
        ),
    ),
    "Latency": (
        quantiles(
            "Search calls",
            "Duration of a Search call in the search service.",
            "grpc_server_handling_seconds",
            f'{SEARCH},grpc_method="Search"',
        ),
        quantiles(
            "Embed, from the search service",
            "Stage embed: the time that a search by image waits for the embedder.",
            "grpc_server_stage_seconds",
            stage("embed"),
        ),
        quantiles(
            "Store",
            "Stage store: the time that a Search call waits for Milvus.",
            "grpc_server_stage_seconds",
            stage("store"),
        ),
        quantiles(
            "Queue", "Time that a decoded image waits for a batch.", "embedder_queue_seconds", EMBEDDER, "model", "lane"
        ),
        quantiles(
            "Decode", "Time that a thread takes to decode an image.", "embedder_decode_seconds", EMBEDDER, "lane"
        ),
        quantiles("Inference", "Time of one batch.", "embedder_inference_seconds", EMBEDDER, "model"),
    ),
    "Queue": (
        Panel(
            "Images in the queue",
            "Decoded images that wait for a batch, in all replicas.",
            "short",
            Query(f"sum by (lane) (embedder_queue_size{{{EMBEDDER}}})", "{{lane}}"),
            width=6,
        ),
        Panel(
            "Images in flight",
            "Maximum of all replicas, for each lane. The line is the default of EMBEDDER_MAX_PENDING and "
            "EMBEDDER_MAX_PENDING_BULK: at this limit, Embed is refused and EmbedStream waits.",
            "short",
            Query(f"max by (lane) (embedder_images_in_flight{{{EMBEDDER}}})", "{{lane}}"),
            width=6,
            steps=(("red", 64),),
        ),
        Panel(
            "Batch size",
            "Mean number of images in a batch. Batches grow while the model is busy.",
            "short",
            Query(
                f"sum by (instance, model) (rate(embedder_batch_size_sum{{{EMBEDDER}}}[$__rate_interval]))"
                " / (sum by (instance, model)"
                f" (rate(embedder_batch_size_count{{{EMBEDDER}}}[$__rate_interval])) > 0)",
                "{{instance}} {{model}}",
            ),
            width=6,
        ),
        Panel(
            "Utilisation",
            "Share of time in which a replica runs a model, and the share that its images would take in full batches.",
            "percentunit",
            Query(
                f"sum by (instance) (rate(embedder_inference_seconds_sum{{{EMBEDDER}}}[$__rate_interval]))",
                "{{instance}} measured",
            ),
            further_queries=(
                Query(
                    "sum by (instance) ("
                    f"sum by (instance, model) (rate(embedder_batch_size_sum{{{EMBEDDER}}}[$__rate_interval]))"
                    f" * sum by (instance, model) (embedder_seconds_per_image{{{EMBEDDER}}}))",
                    "{{instance}} in full batches",
                ),
            ),
            width=6,
            maximum=1,
        ),
    ),
    "Refusals": (
        Panel(
            "Calls that ended in an error",
            "By reason. Servers cause OVERLOADED, OUT_OF_MEMORY, MILVUS_* and EMBEDDER_UNAVAILABLE; callers cause "
            "most other reasons.",
            "reqps",
            Query(
                f"sum by (job, reason) (rate(grpc_server_refused_total{{{BOTH}}}[$__rate_interval]))",
                "{{job}} {{reason}}",
            ),
            width=12,
            stacked=True,
        ),
        Panel(
            "Embed calls refused as OVERLOADED",
            "Share of all Embed calls. Above 5 % it pages.",
            "percentunit",
            Query('imagesearch:embedder_overloaded:ratio_rate5m{namespace=~"$namespace"}', "{{namespace}}"),
            width=12,
            steps=(("red", 0.05),),
        ),
    ),
    "Milvus": (
        Panel(
            "Share of search time in Milvus",
            "Time in the stage store, as a share of the duration of Search calls.",
            "percentunit",
            Query(
                f"sum(rate(grpc_server_stage_seconds_sum{{{stage('store')}}}[$__rate_interval]))"
                f' / sum(rate(grpc_server_handling_seconds_sum{{{SEARCH},grpc_method="Search"}}'
                "[$__rate_interval]))",
                "Milvus",
            ),
            width=12,
            maximum=1,
        ),
        Panel(
            "Refusals because of Milvus",
            "Calls of the search service that failed because Milvus was unavailable, slow, full or rate limited.",
            "reqps",
            Query(
                "sum by (reason) (rate(grpc_server_refused_total"
                f'{{{SEARCH},reason=~"MILVUS_UNAVAILABLE|MILVUS_TIMEOUT|MILVUS_FULL|MILVUS_RATE_LIMITED"}}'
                "[$__rate_interval]))",
                "{{reason}}",
            ),
            width=12,
        ),
    ),
    "Memory and CPU": (
        Panel(
            "Resident memory",
            "Resident memory of each process.",
            "bytes",
            Query(f"process_resident_memory_bytes{{{BOTH}}}"),
            width=6,
        ),
        Panel(
            "CPUs",
            "CPUs that each process keeps busy.",
            "short",
            Query(f"rate(process_cpu_seconds_total{{{BOTH}}}[$__rate_interval])"),
            width=6,
        ),
        Panel(
            "Memory of the limit",
            "Working set of a container, as a share of its limit. Needs cAdvisor and kube-state-metrics.",
            "percentunit",
            Query(
                f"max by (pod, container) (container_memory_working_set_bytes{{{CONTAINERS}}})"
                " / max by (pod, container)"
                f' (kube_pod_container_resource_limits{{{CONTAINERS},resource="memory"}}'
                f" or container_spec_memory_limit_bytes{{{CONTAINERS}}} > 0)",
                "{{pod}}",
            ),
            width=6,
            steps=(("red", 0.9),),
            maximum=1,
        ),
        Panel(
            "Throttled",
            "Share of the periods in which a container used up its CPU quota. Needs cAdvisor.",
            "percentunit",
            Query(
                "sum by (pod, container)"
                f" (rate(container_cpu_cfs_throttled_periods_total{{{CONTAINERS}}}[$__rate_interval]))"
                " / sum by (pod, container)"
                f" (rate(container_cpu_cfs_periods_total{{{CONTAINERS}}}[$__rate_interval]))",
                "{{pod}}",
            ),
            width=6,
            steps=(("red", 0.1),),
        ),
    ),
    "Replicas": (
        Panel(
            "Share of the load",
            "Share of a replica in the images (embedder) or calls (search) of all replicas.",
            "percentunit",
            Query(
                f"imagesearch:instance_load:rate5m{{{BOTH}}} / on (namespace, job) group_left"
                f" sum by (namespace, job) (imagesearch:instance_load:rate5m{{{BOTH}}})"
            ),
            maximum=1,
        ),
        Panel("Age", "Time since the process started.", "s", Query(f"time() - process_start_time_seconds{{{BOTH}}}")),
        Panel(
            "Models",
            "Models of each embedder. All embedders must have the same fingerprint of a model.",
            "short",
            Query(f"embedder_model_info{{{EMBEDDER}}}", "{{instance}}"),
            kind="table",
        ),
    ),
}
