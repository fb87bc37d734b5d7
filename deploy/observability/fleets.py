"""Fleets of embedders, with the expected value of every rule."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from deploy.observability.dashboard import dashboard

Yaml: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Fleet:
    """Healthy embedders under a steady load, spread evenly over the embedders that serve each model."""

    replicas: int
    loads: tuple[float, ...]
    """Images per second of each model, in batches of one image; 1.0 keeps one embedder busy."""
    rare: bool = False
    """Whether only the first replica serves the last model."""

    def __str__(self) -> str:
        """Return a name for messages."""
        rare = ", the last on one of them" if self.rare else ""
        return f"{len(self.loads)} models on {self.replicas} embedders{rare}"

    def load(self, replica: int, model: int) -> float | None:
        """Return the images per second of one model on one replica, or None if the replica does not serve it."""
        if not self.rare or model < len(self.loads) - 1:
            return self.loads[model] / self.replicas
        return self.loads[model] if replica == 0 else None

    def of(self, replica: int) -> float:
        """Return the images per second of one replica."""
        return sum(self.load(replica, model) or 0.0 for model in range(len(self.loads)))

    def test(self) -> Yaml:
        """Return a rule test: no alert fires, and each rule has its calculated value."""
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
        labels_text = f'job="embedder",namespace="shop",instance="e{replica}"'
        yield {"series": f"up{{{labels_text}}}", "values": "1x120"}
        yield {"series": f"grpc_server_serving{{{labels_text}}}", "values": "1x120"}
        yield {"series": f"grpc_server_draining{{{labels_text}}}", "values": "0x120"}
        yield {
            "series": f'grpc_server_handled_total{{{labels_text},grpc_method="Embed",grpc_code="OK"}}',
            "values": f"0+{self.of(replica) * 30}x120",
        }
        for model in range(len(self.loads)):
            load = self.load(replica, model)
            if load is not None:
                yield from self._model_series(f'{labels_text},model="m{model}"', model, load)

    def _model_series(self, labels_text: str, model: int, load: float) -> Iterator[Yaml]:
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
            yield {"series": f"{metric.strip()}{{{labels_text}{labels}}}", "values": f"0+{load * rate * 30}x120"}
        info = f'{labels_text},fingerprint="f{model}",precision="float32",threads="2"'
        yield {"series": f"embedder_model_info{{{info}}}", "values": "1x120"}
        yield {"series": f"embedder_seconds_per_image{{{labels_text}}}", "values": "0.5x120"}
        yield {"series": f"embedder_queue_size{{{labels_text},{lane}}}", "values": "3x120"}

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
        (batch,) = panels["Batch size"]
        yield batch, _samples({f'instance="e{r}",model="m{m}"': 1 for r, m in pairs if self.load(r, m)})
        (waiting,) = panels["Images in the queue"]
        yield waiting, _samples({'lane="interactive"': 3 * len(pairs)})
        (images,) = panels["Images"]
        yield images, _samples({'lane="interactive",result="embedded"': sum(self.loads)})
        (shares,) = panels["Share of the load"]
        yield (
            shares,
            _samples(
                {f'job="embedder",{shop},instance="e{replica}"': busy[replica] / sum(busy) for replica in replicas}
            ),
        )


def _samples(values: dict[str, float]) -> list[Yaml]:
    return [{"labels": f"{{{labels}}}", "value": round(value, 4)} for labels, value in values.items()]


def _panels() -> Iterator[Yaml]:
    """Yield the dashboard's panels, with Grafana's variables set for all instances."""
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
