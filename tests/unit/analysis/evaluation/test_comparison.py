"""Which model to take."""

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
    Served,
    advice,
    comparable_speeds,
    told_apart,
)
from imagesearch_analysis.evaluation.embedding import Embedded
from imagesearch_analysis.evaluation.measuring import Hits, Measured
from imagesearch_analysis.evaluation.metrics import RECALL_LEVELS, Values
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
    told: float | None = None,
    dimension: int = 512,
    memory: int = 0,
    known: int = 0,
) -> Candidate:
    model = embedder_pb2.Model(name=name, fingerprint=name, dimension=dimension)
    if told:
        model.execution.seconds_per_image = 1 / told
    model.execution.memory_bytes = memory
    embedded = Embedded(fresh=100, seconds=100 / speed, known=known) if speed else Embedded(known=100)
    measured = Measured(
        dict.fromkeys(("mAP", "P@1", "recall@10", "nDCG@10"), values),
        np.full(len(RECALL_LEVELS), values.mean()),
        Hits(np.zeros((QUERIES, 1), np.int64), np.zeros((QUERIES, 1), np.float32)),
    )
    return Candidate(ModelRun(Served(model, Endpoint("127.0.0.1:1")), embedded), Metric.COSINE, measured, 0)


def comparison(*candidates: Candidate) -> Comparison:
    queries = [Query(str(number), np.array([0])) for number in range(QUERIES)]
    speeds = comparable_speeds([one.run for one in candidates])
    timed = [replace(one, speed=speed) for one, speed in zip(candidates, speeds, strict=True)]
    ordered = sorted(timed, key=lambda one: -one.quality)
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


def test_speeds_that_the_embedder_tells_stand_in_for_all_where_one_was_not_measured() -> None:
    cached = candidate("large", HARD, told=10)
    fresh = candidate("small", near(HARD), speed=90, told=30, memory=3 * 2**20)
    found = comparison(cached, fresh)
    assert "3.0 times as many images a second" in advice(found)
    large, small, random = comparison_report.rows_of(found)
    assert (random[0], len(random)) == ("random ranking", len(comparison_report.columns_of(found)))
    assert (large[0], large[-4:]) == ("large, cosine", ["n/a", "512", "2,048", "n/a"])
    assert (small[0], small[-4:]) == ("small, cosine", ["90.0", "512", "2,048", "3 MiB"])


def test_a_run_that_went_on_advises_as_one_that_embedded_everything() -> None:
    whole = comparison(candidate("a", HARD, speed=20, told=20), candidate("b", near(HARD), speed=20, told=20))
    # Of a the last three images were embedded now, mostly while the embedder warmed up.
    resumed = comparison(candidate("a", HARD, speed=1.5, known=97, told=20), candidate("b", near(HARD), told=20))
    assert advice(resumed) == advice(whole)
    assert resumed.best.measured_speed is None


def test_speeds_that_are_known_in_different_ways_are_not_compared() -> None:
    measured, told = candidate("a", HARD, speed=10), candidate("b", near(HARD), told=100)
    assert advice(comparison(measured, told)).startswith("Take a, cosine")


def test_models_of_one_name_are_told_apart_by_their_embedders() -> None:
    models = [("m", "a:1"), ("m", "b:1"), ("n", "a:1")]
    served = told_apart([Served(embedder_pb2.Model(name=name), Endpoint(target)) for name, target in models])
    assert [one.name for one in served] == ["m@a:1", "m@b:1", "n"]
    first = candidate("m", HARD)
    assert replace(first, run=ModelRun(served[0], Embedded())).name == "m@a:1, cosine"


def test_within_noise_and_no_cheaper_the_best_is_taken() -> None:
    slower = candidate("slower", near(HARD), speed=7, dimension=256)
    told = advice(comparison(candidate("best", HARD, speed=10), slower, candidate("same", near(HARD), speed=10)))
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
