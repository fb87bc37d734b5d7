"""Which model to take."""

import json

import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2

from imagesearch_client.bulk.services import Endpoint
from imagesearch_client.evaluation import comparison_report
from imagesearch_client.evaluation.comparison import Candidate, Comparison, ModelRun, Served, advice
from imagesearch_client.evaluation.embedding import Embedded
from imagesearch_client.evaluation.measuring import Hits, Measured
from imagesearch_client.evaluation.metrics import RECALL_LEVELS, Values
from imagesearch_client.evaluation.task import Query, Task
from imagesearch_client.types import Metric

QUERIES = 400
HARD = np.random.default_rng(0).random(QUERIES)


def candidate(
    name: str,
    values: Values,
    *,
    speed: float | None = None,
    told: float | None = None,
    dimension: int = 512,
    memory: int = 0,
) -> Candidate:
    model = embedder_pb2.Model(name=name, fingerprint=name, dimension=dimension)
    if told:
        model.execution.seconds_per_image = 1 / told
    model.execution.memory_bytes = memory
    embedded = Embedded(fresh=100, seconds=100 / speed) if speed else Embedded()
    measured = Measured(
        dict.fromkeys(("mAP", "P@1", "recall@10", "nDCG@10"), values),
        np.full(len(RECALL_LEVELS), values.mean()),
        Hits(np.zeros((QUERIES, 1), np.int64), np.zeros((QUERIES, 1), np.float32)),
    )
    return Candidate(ModelRun(Served(model, Endpoint("127.0.0.1:1")), embedded), Metric.COSINE, measured, 0)


def comparison(*candidates: Candidate) -> Comparison:
    queries = [Query(str(number), np.array([0])) for number in range(QUERIES)]
    ordered = sorted(candidates, key=lambda one: -one.quality)
    return Comparison(ordered, Task(queries, None), QUERIES, [10], {"broken.jpg (vgg16)": "IMAGE_CORRUPT: <cut>"})


def near(values: Values) -> Values:
    """Values that differ from others by noise, and are worse by 0.001 in the mean."""
    noise = np.random.default_rng(1).normal(0, 0.1, QUERIES)
    worse: Values = values - 0.001 - (noise - noise.mean())
    return worse


def test_the_best_is_taken_where_all_others_are_significantly_worse() -> None:
    told = advice(comparison(candidate("good", HARD, speed=10), candidate("fast", HARD * 0.8, speed=100)))
    assert told.startswith("Take good, cosine: its mAP of ")
    assert "significantly better than that of all others" in told


def test_a_faster_one_is_taken_where_the_difference_is_within_noise() -> None:
    told = advice(comparison(candidate("good", HARD, speed=10), candidate("fast", near(HARD), speed=52)))
    assert told.startswith("Take fast, cosine, and not good, cosine with the best mAP of ")
    assert "it embeds 5.2 times as many images a second. It has " in told
    assert "the difference of 0.001 [-" in told
    assert "within noise on these 400 queries (paired bootstrap)" in told


def test_smaller_vectors_are_cheaper_where_the_speed_is_the_same() -> None:
    large, small = candidate("large", HARD, speed=10, dimension=25088), candidate("small", near(HARD), speed=9)
    told = advice(comparison(large, small))
    assert told.startswith("Take small, cosine")
    assert "its vectors are 49.0 times smaller." in told


def test_of_several_the_fastest_is_taken_and_of_those_as_fast_the_smallest() -> None:
    best = candidate("best", HARD, speed=10)
    fast = [
        candidate(name, near(HARD), speed=speed, dimension=dimension)
        for name, speed, dimension in (("slow", 20, 8), ("large", 41, 2048), ("small", 40, 512))
    ]
    assert advice(comparison(best, *fast)).startswith("Take small, cosine")


def test_the_speed_that_the_embedder_tells_stands_in_for_one_that_was_not_measured() -> None:
    cached, fresh = candidate("large", HARD, told=10), candidate("small", near(HARD), speed=30, memory=3 * 2**20)
    found = comparison(cached, fresh)
    assert "3.0 times as many images a second" in advice(found)
    large, small = comparison_report.rows_of(found)
    assert (large[0], large[-4:]) == ("large, cosine", ["n/a", "512", "2,048", "n/a"])
    assert (small[0], small[-4:]) == ("small, cosine", ["30.0", "512", "2,048", "3 MiB"])


def test_within_noise_and_no_cheaper_the_best_is_taken() -> None:
    slower = candidate("slower", near(HARD), speed=7, dimension=256)
    told = advice(comparison(candidate("best", HARD, speed=10), slower, candidate("same", near(HARD))))
    assert told.startswith("Take best, cosine")
    assert "Within noise of it, and no cheaper: slower, cosine; same, cosine." in told


def test_one_alone_is_compared_with_nothing() -> None:
    assert "nothing to compare it with" in advice(comparison(candidate("only", HARD)))


def test_a_page_and_json_have_all_of_it_and_escape_what_is_not_ours() -> None:
    found = comparison(candidate("<b>good</b>", HARD, speed=10), candidate("fast", HARD * 0.8, told=100))
    page = comparison_report.page(found, "<script>alert(1)</script>")
    assert "<script" not in page
    assert "<b>good" not in page
    assert "&lt;b&gt;good&lt;/b&gt;, cosine" in page
    assert "IMAGE_CORRUPT: &lt;cut&gt;" in page
    assert 'src="data:image/svg+xml;base64,' in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    told = json.loads(json.dumps(comparison_report.as_json(found, "photos")))
    first, second = told["candidates"]
    assert (first["model"], first["images_per_second"], second["images_per_second"]) == ("<b>good</b>", 10, None)
    assert first["below_best"] == {"mean": 0, "low": 0, "high": 0}
    assert second["below_best"]["low"] > 0
    assert first["figures"]["mAP"]["mean"] == pytest.approx(HARD.mean())
    assert told["left_out"]["failed"] == {"broken.jpg (vgg16)": "IMAGE_CORRUPT: <cut>"}
