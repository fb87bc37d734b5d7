"""Checks of the variables that images set. A service does not start with an unknown variable or a wrong value."""

import pytest

from deploy.checks.images import of_image, problems


def test_images_set_only_valid_variables() -> None:
    assert list(problems()) == []


@pytest.mark.parametrize(
    ("component", "dockerfile", "message"),
    [
        (
            "embedder",
            "ENV PATH=/app \\\n    EMBEDDER_WEIGHT=/weights/vgg16.h5\n",
            "EMBEDDER_WEIGHT: this setting does not exist",
        ),
        ("search", "ENV SEARCH_LISTEN_ADRESS=0.0.0.0:50052", "did you mean SEARCH_LISTEN_ADDRESS"),
        ("search", "ENV SEARCH_LISTEN_ADDRESS=50052", "should be HOST:PORT"),
        ("client", "ENV IMAGESEARCH_TLS=maybe", "IMAGESEARCH_TLS='maybe'"),
    ],
)
def test_reports_wrong_variable_of_image(component: str, dockerfile: str, message: str) -> None:
    (problem,) = of_image(component, dockerfile)
    assert message in problem
