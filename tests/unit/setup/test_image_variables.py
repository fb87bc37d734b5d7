"""Variables that an image sets and that no program reads would stop its containers: they are noticed before."""

import pytest

from deploy.checks.images import of_image, problems


def test_the_images_set_variables_that_their_programs_read() -> None:
    assert list(problems()) == []


@pytest.mark.parametrize(
    ("component", "dockerfile", "said"),
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
def test_a_wrong_variable_of_an_image_is_noticed(component: str, dockerfile: str, said: str) -> None:
    (problem,) = of_image(component, dockerfile)
    assert said in problem
