"""A backbone in one precision, with its models. The embedder compares such candidates to choose a precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from embedder_service.adapters.golden_vectors import GoldenVectors, golden_batches
from embedder_service.adapters.tensorflow_model import Backbone, TensorflowModel
from embedder_service.core.heads import FeatureMaps
from embedder_service.core.types import InputPolicy, Vectors


class PrecisionCandidate:
    """A backbone in one precision, with all served models that share it."""

    def __init__(
        self,
        backbone: Backbone,
        models: Mapping[str, TensorflowModel],
        golden: GoldenVectors,
        golden_head: Callable[[FeatureMaps], Vectors],
    ) -> None:
        """Create a candidate.

        Args:
            backbone: the shared backbone.
            models: the models, by the names that messages use.
            golden: the golden images.
            golden_head: computes the golden vectors from feature maps.
        """
        self.backbone = backbone
        self.models = models
        self._golden = golden
        self._golden_head = golden_head
        self._golden_input = InputPolicy("squash", golden.pixels.shape[1])
        self._feature_maps: dict[InputPolicy, Sequence[FeatureMaps]] = {}

    @property
    def weights_sha256(self) -> str:
        """The digest of the backbone's weights."""
        return self.backbone.weights_sha256

    @property
    def precision(self) -> str:
        """The precision of the backbone."""
        return self.backbone.precision

    def golden_vectors(self) -> Vectors:
        """Return the golden head's vectors of the golden images, float32[N, D]."""
        return self._golden_head(self._maps(self._golden_input)[0])

    def probe(self) -> Mapping[str, Vectors]:
        """Return each model's vectors of golden images, float32[N, D], with its own head and input.

        Sets the dimension of each model.
        """
        found = {}
        for name, model in self.models.items():
            vectors = np.concatenate([model.vectors_of(maps) for maps in self._maps(model.info.input)])
            model.info = replace(model.info, dimension=vectors.shape[1])
            found[name] = vectors
        return found

    def seconds_per_image(self, batch_size: int) -> float:
        """Return the first model's seconds per image, in batches of `batch_size` images or the model's maximum."""
        model = next(iter(self.models.values()))
        return model.seconds_per_image(min(batch_size, model.info.max_batch_size))

    def free_feature_maps(self) -> None:
        """Free the feature maps."""
        self._feature_maps.clear()

    def _maps(self, policy: InputPolicy) -> Sequence[FeatureMaps]:
        # Models with the same input share their feature maps.
        key = replace(policy, min_side=self._golden_input.min_side) if policy.shape != "native" else policy
        if key not in self._feature_maps:
            run = self.backbone.runner(None if policy.shape == "native" else policy.side)
            batches = [self._golden.pixels] if key == self._golden_input else golden_batches(self._golden, policy)
            self._feature_maps[key] = [run(pixels) for pixels in batches]
        return self._feature_maps[key]
