"""The recommended model of a comparison."""

import json
from dataclasses import replace

import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2

from imagesearch_analysis.evaluation import comparison_report
from imagesearch_analysis.evaluation.comparison import (
    Candidate,
    Comparison,
    ModelRun,
    ServedModel,
    comparable_speeds,
    with_unique_names,
)
from imagesearch_analysis.evaluation.embedding import Embedded
from imagesearch_analysis.evaluation.measuring import Hits, Measured
from imagesearch_analysis.evaluation.metrics import RECALL_LEVELS, Values
from imagesearch_analysis.evaluation.recommendation import recommendation
from imagesearch_analysis.evaluation.task import Query, Task
from imagesearch_client.types import Metric
from imagesearch_ingest.load.bulk_clients import Endpoint

QUERIES = 400
HARD = np.random.default_rng(0).random(QUERIES)


def candidate(
    name: str,
    values: Values,
    *,
    speed: float | None = None,
    declared: float | None = None,
    dimension: int = 512,
    memory: int = 0,
    known: int = 0,
) -> Candidate:
    model = embedder_pb2.Model(name=name, fingerprint=name, dimension=dimension)
    if declared:
        model.execution.seconds_per_image = 1 / declared
    model.execution.memory_bytes = memory
    embedded = Embedded(fresh=100, seconds=100 / speed, known=known) if speed else Embedded(known=100)
    measured = Measured(
        dict.fromkeys(("mAP", "P@1", "recall@10", "nDCG@10"), values),
        np.full(len(RECALL_LEVELS), values.mean()),
        Hits(np.zeros((QUERIES, 1), np.int64), np.zeros((QUERIES, 1))),
    )
    return Candidate(ModelRun(ServedModel(model, Endpoint("127.0.0.1:1")), embedded), Metric.COSINE, measured, 0)


def comparison(*candidates: Candidate) -> Comparison:
    queries = [Query(str(number), np.array([0])) for number in range(QUERIES)]
    speeds = comparable_speeds([one.run for one in candidates])
    timed = [replace(one, speed=speed) for one, speed in zip(candidates, speeds, strict=True)]
    ordered = sorted(timed, key=lambda one: -one.quality)
    return Comparison(ordered, Task(queries, None), QUERIES, [10], {"broken.jpg (vgg16)": "IMAGE_CORRUPT: <cut>"})


def near(values: Values) -> Values:
    """Return values that differ by noise, with a mean that is 0.001 worse."""
    noise = np.random.default_rng(1).normal(0, 0.1, QUERIES)
    worse: Values = values - 0.001 - (noise - noise.mean())
    return worse


def test_the_best_model_is_recommended_if_all_others_are_significantly_worse() -> None:
    text = recommendation(comparison(candidate("good", HARD, speed=10), candidate("fast", HARD * 0.8, speed=100)))
    assert text.startswith("Use good, cosine: it has mAP ")
    assert "is significantly better than all others" in text


def test_a_faster_model_is_recommended_if_the_difference_is_not_significant() -> None:
    text = recommendation(comparison(candidate("good", HARD, speed=10), candidate("fast", near(HARD), speed=52)))
    assert text.startswith("Use fast, cosine instead of good, cosine, which has the best mAP ")
    assert "it embeds 5.2 times as many images a second. Its mAP is " in text
    assert "The difference of 0.001 [-" in text
    assert "is not significant on these 400 queries (paired bootstrap)" in text


def test_smaller_vectors_are_recommended_at_the_same_speed() -> None:
    large, small = candidate("large", HARD, speed=10, dimension=25088), candidate("small", near(HARD), speed=9)
    text = recommendation(comparison(large, small))
    assert text.startswith("Use small, cosine")
    assert "its vectors are 49.0 times smaller." in text


def test_the_smallest_of_the_fastest_models_is_recommended() -> None:
    best = candidate("best", HARD, speed=10)
    fast = [
        candidate(name, near(HARD), speed=speed, dimension=dimension)
        for name, speed, dimension in (("slow", 20, 8), ("large", 41, 2048), ("small", 40, 512))
    ]
    assert recommendation(comparison(best, *fast)).startswith("Use small, cosine")


def test_declared_speeds_are_used_for_all_models_if_one_was_not_measured() -> None:
    cached = candidate("large", HARD, declared=10)
    fresh = candidate("small", near(HARD), speed=90, declared=30, memory=3 * 2**20)
    found = comparison(cached, fresh)
    assert "3.0 times as many images a second" in recommendation(found)
    large, small, random = comparison_report.rows_of(found)
    assert (random[0], len(random)) == ("random ranking", len(comparison_report.columns_of(found)))
    assert (large[0], large[-4:]) == ("large, cosine", ["n/a", "512", "2,048", "n/a"])
    assert (small[0], small[-4:]) == ("small, cosine", ["90.0", "512", "2,048", "3 MiB"])


def test_a_resumed_run_recommends_the_same_model() -> None:
    whole = comparison(candidate("a", HARD, speed=20, declared=20), candidate("b", near(HARD), speed=20, declared=20))
    # This run embedded only the last three images of model a, while the embedder warmed up.
    resumed = comparison(
        candidate("a", HARD, speed=1.5, known=97, declared=20), candidate("b", near(HARD), declared=20)
    )
    assert recommendation(resumed) == recommendation(whole)
    assert resumed.best.measured_speed is None


def test_measured_and_declared_speeds_are_not_compared() -> None:
    measured, declared = candidate("a", HARD, speed=10), candidate("b", near(HARD), declared=100)
    assert recommendation(comparison(measured, declared)).startswith("Use a, cosine")


def test_models_with_one_name_are_named_with_their_embedders() -> None:
    models = [("m", "a:1"), ("m", "b:1"), ("n", "a:1")]
    served = with_unique_names(
        [ServedModel(embedder_pb2.Model(name=name), Endpoint(target)) for name, target in models]
    )
    assert [one.name for one in served] == ["m@a:1", "m@b:1", "n"]
    first = candidate("m", HARD)
    assert replace(first, run=ModelRun(served[0], Embedded())).name == "m@a:1, cosine"


def test_the_best_model_is_recommended_if_similar_ones_are_not_cheaper() -> None:
    slower = candidate("slower", near(HARD), speed=7, dimension=256)
    text = recommendation(
        comparison(candidate("best", HARD, speed=10), slower, candidate("same", near(HARD), speed=10))
    )
    assert text.startswith("Use best, cosine")
    assert "Not significantly worse, but not cheaper: slower, cosine; same, cosine." in text


def test_a_single_model_is_compared_with_nothing() -> None:
    assert "There is no other model to compare." in recommendation(comparison(candidate("only", HARD)))


def test_page_and_json_are_complete_and_escape_foreign_texts() -> None:
    found = comparison(candidate("<b>good</b>", HARD, speed=10), candidate("fast", HARD * 0.8, declared=100))
    page = comparison_report.page(found, "<script>alert(1)</script>")
    assert "<script" not in page
    assert "<b>good" not in page
    assert "&lt;b&gt;good&lt;/b&gt;, cosine" in page
    assert "IMAGE_CORRUPT: &lt;cut&gt;" in page
    assert 'src="data:image/svg+xml;base64,' in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    report = json.loads(json.dumps(comparison_report.as_json(found, "photos")))
    first, second = report["candidates"]
    assert (first["model"], first["images_per_second"], second["images_per_second"]) == ("<b>good</b>", 10, None)
    assert first["below_best"] == {"mean": 0, "low": 0, "high": 0}
    assert second["below_best"]["low"] > 0
    assert first["figures"]["mAP"]["mean"] == pytest.approx(HARD.mean())
    assert report["left_out"]["failed"] == {"broken.jpg (vgg16)": "IMAGE_CORRUPT: <cut>"}
