"""A network in one precision, with all models that are served of it: what a choice of the precision compares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from embedder_service.adapters.golden import Golden
from embedder_service.adapters.tensorflow_model import Backbone, TensorflowModel
from embedder_service.core.image_decoding import fit
from embedder_service.core.pooling import FeatureMaps
from embedder_service.core.types import InputPolicy, Pixels, Vectors

# Every third golden image is shown to inputs that the golden vectors are not of: a large input takes long.
SHOWN = slice(None, None, 3)


class Candidate:
    """Models that share a network, and what they make of photographs."""

    def __init__(
        self,
        backbone: Backbone,
        models: Mapping[str, TensorflowModel],
        golden: Golden,
        golden_head: Callable[[FeatureMaps], Vectors],
    ) -> None:
        """`models` are by what messages call them; `golden_head` makes the golden vectors of feature maps."""
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
        """What the network computes in."""
        return self.backbone.precision

    def golden_vectors(self) -> Vectors:
        """What the network makes of the golden images, as the golden vectors were made: float32[N, D]."""
        return self._golden_head(self._maps(self._golden_input)[0])

    def probe(self) -> Mapping[str, Vectors]:
        """The vectors of photographs, float32[N, D], by each model with its own head and input."""
        found = {}
        for name, model in self.models.items():
            vectors = np.concatenate([model.vectors_of(maps) for maps in self._maps(model.info.input)])
            model.info = replace(model.info, dimension=vectors.shape[1])
            found[name] = vectors
        return found

    def seconds_per_image(self, batch_size: int) -> float:
        """What an image costs the first model, in batches of this size or of the most that it takes."""
        model = next(iter(self.models.values()))
        return model.seconds_per_image(min(batch_size, model.info.max_batch_size))

    def forget(self) -> None:
        """Frees the feature maps."""
        self._known.clear()

    def _maps(self, policy: InputPolicy) -> Sequence[FeatureMaps]:
        # Models of one input differ in their heads only.
        key = replace(policy, least=self._golden_input.least) if policy.shape != "native" else policy
        if key not in self._known:
            run = self.backbone.runner(None if policy.shape == "native" else policy.side)
            shown = [self._golden.pixels] if key == self._golden_input else photographs(self._golden, policy)
            self._known[key] = [run(pixels) for pixels in shown]
        return self._known[key]


def photographs(golden: Golden, policy: InputPolicy) -> list[Pixels]:
    """Batches of photographs, uint8[N, H, W, 3], as the decoder makes a network's input of images of 4 by 3."""
    size = (policy.side, max(1, policy.side * 3 // 4))
    images = [
        np.asarray(fit(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), None, policy), np.uint8)
        for pixels in golden.pixels[SHOWN]
    ]
    return [image[np.newaxis] for image in images] if policy.shape == "native" else [np.stack(images)]
