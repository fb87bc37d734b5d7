"""The checks detect from the output what a client did not do."""

import pytest

from examples.transcripts import faults_of_outage, faults_of_run

PHOTOS = ("coffee", "rocket")
GOOD = """\
localhost:1 is SERVING
localhost:2 is SERVING
embedded into 512 values by vgg16-avg-ad4b73ab834214e9
stored coffee
stored rocket
refused broken: INVALID_ARGUMENT image.content is no image
  reason IMAGE_FORMAT_UNSUPPORTED of search.imagesearch
  field image.content: image.content is no image
hit coffee 1.000
hit rocket 0.147
search: INVALID_ARGUMENT limit is 2000
  reason LIMIT_INVALID of search.imagesearch
  field limit: limit is 2000
"""
OUTAGE = """\
refused coffee: UNAVAILABLE the embedder does not answer
  reason EMBEDDER_UNAVAILABLE of search.imagesearch
  retry after 1.95 s
refused rocket: UNAVAILABLE the embedder does not answer
  reason EMBEDDER_UNAVAILABLE of search.imagesearch
  retry after 2.01 s
failed: UNAVAILABLE the embedder does not answer
  reason EMBEDDER_UNAVAILABLE of search.imagesearch
  retry after 2.05 s
"""
EVERY_ERROR = [f"not true: the error of {what} is reported" for what in ("refused coffee", "refused rocket", "failed")]


@pytest.mark.parametrize("transcript", [GOOD, GOOD.replace("INVALID_ARGUMENT", "InvalidArgument")])
def test_a_correct_run_has_no_faults(transcript: str) -> None:
    assert faults_of_run(transcript, PHOTOS) == []


@pytest.mark.parametrize(
    ("good", "bad", "fault"),
    [
        ("localhost:2 is SERVING", "localhost:2 is NOT_SERVING", "both servers serve"),
        ("512", "511", "an image has 512 values"),
        ("stored rocket\n", "", "every photograph is stored"),
        ("IMAGE_FORMAT_UNSUPPORTED", "INTERNAL", "the broken image is refused"),
        ("  field image.content: image.content is no image\n", "", "the broken image is refused"),
        ("hit coffee 1.000", "hit coffee 0.900", "the query's own photograph is first, with score 1"),
        ("hit rocket 0.147", "hit rocket 1.000", "the query's own photograph is first, with score 1"),
        (
            "hit coffee 1.000\nhit rocket 0.147",
            "hit rocket 1.000\nhit coffee 0.147",
            "the query's own photograph is first, with score 1",
        ),
        ("hit rocket 0.147\n", "", "every photograph is found"),
        ("search: INVALID_ARGUMENT", "search: UNAVAILABLE", "the limit is refused"),
        ("  field limit: limit is 2000\n", "", "the limit is refused"),
    ],
)
def test_missing_results_of_a_run_are_named(good: str, bad: str, fault: str) -> None:
    assert good in GOOD
    assert faults_of_run(GOOD.replace(good, bad), PHOTOS) == [f"not true: {fault}"]


def test_a_client_without_output_fails_every_check() -> None:
    assert len(faults_of_run("", PHOTOS)) == 7


@pytest.mark.parametrize(
    ("good", "bad", "faults"),
    [
        ("", "", []),
        ("failed: UNAVAILABLE", "failed: UNKNOWN", ["not true: the error of failed is reported"]),
        ("refused rocket", "stored rocket", ["not true: the error of refused rocket is reported"]),
        ("  reason EMBEDDER_UNAVAILABLE", "  reason INTERNAL", EVERY_ERROR),
        ("  retry after 2.05 s\n", "", ["not true: every error says when to try again"]),
        ("2.05", "0.00", ["not true: every error says when to try again"]),
    ],
)
def test_an_outage_is_reported_with_its_delay(good: str, bad: str, faults: list[str]) -> None:
    assert faults_of_outage(OUTAGE.replace(good, bad), PHOTOS) == faults
