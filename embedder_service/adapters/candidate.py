"""A network in one precision, with all its served models, for the choice of the precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from embedder_service.adapters.golden import Golden
from embedder_service.adapters.tensorflow_model import Backbone, TensorflowModel
from embedder_service.core.image_decoding import fit
from embedder_service.core.pooling import FeatureMaps
from embedder_service.core.types import InputPolicy, Pixels, Vectors

# Models with other inputs than the golden vectors get every third golden image: a large input takes long.
SHOWN = slice(None, None, 3)


class Candidate:
    """Models that share a network, and their vectors of photographs."""

    def __init__(
        self,
        backbone: Backbone,
        models: Mapping[str, TensorflowModel],
        golden: Golden,
        golden_head: Callable[[FeatureMaps], Vectors],
    ) -> None:
        """`models` are by their names in messages; `golden_head` computes the golden vectors from feature maps."""
        self.backbone = backbone
        self.models = models
        self._golden = golden
        self._golden_head = golden_head
        self._golden_input = InputPolicy("squash", golden.pixels.shape[1])
        self._known: dict[InputPolicy, Sequence[FeatureMaps]] = {}

    @property
    def weights_sha256(self) -> str:
        """The digest of the network's weights."""
        return self.backbone.weights_sha256

    @property
    def precision(self) -> str:
        """The precision of the network."""
        return self.backbone.precision

    def golden_vectors(self) -> Vectors:
        """Return the vectors of the golden images, computed as the golden vectors were: float32[N, D]."""
        return self._golden_head(self._maps(self._golden_input)[0])

    def probe(self) -> Mapping[str, Vectors]:
        """Return the vectors of photographs, float32[N, D], by each model with its own head and input."""
        found = {}
        for name, model in self.models.items():
            vectors = np.concatenate([model.vectors_of(maps) for maps in self._maps(model.info.input)])
            model.info = replace(model.info, dimension=vectors.shape[1])
            found[name] = vectors
        return found

    def seconds_per_image(self, batch_size: int) -> float:
        """Return what an image costs the first model, in batches of this size or of its maximum."""
        model = next(iter(self.models.values()))
        return model.seconds_per_image(min(batch_size, model.info.max_batch_size))

    def forget(self) -> None:
        """Free the feature maps."""
        self._known.clear()

    def _maps(self, policy: InputPolicy) -> Sequence[FeatureMaps]:
        # Models with the same input share their feature maps.
        key = replace(policy, least=self._golden_input.least) if policy.shape != "native" else policy
        if key not in self._known:
            run = self.backbone.runner(None if policy.shape == "native" else policy.side)
            shown = [self._golden.pixels] if key == self._golden_input else photographs(self._golden, policy)
            self._known[key] = [run(pixels) for pixels in shown]
        return self._known[key]


def photographs(golden: Golden, policy: InputPolicy) -> list[Pixels]:
    """Return batches of photographs, uint8[N, H, W, 3], made from images of 4 by 3 as the decoder makes them."""
    size = (policy.side, max(1, policy.side * 3 // 4))
    images = [
        np.asarray(fit(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), None, policy), np.uint8)
        for pixels in golden.pixels[SHOWN]
    ]
    return [image[np.newaxis] for image in images] if policy.shape == "native" else [np.stack(images)]
