"""Embeds regions: pools the boxes of a feature map with a model's head."""

from collections.abc import Callable

import numpy as np

from embedder_service.core.heads import FeatureMaps
from embedder_service.core.region_proposals import pool, propose, salient_box
from embedder_service.core.types import RegionRequest, Regions, RegionVector, Vectors


def regions_of(
    feature_map: FeatureMaps, request: RegionRequest, vectors_of: Callable[[FeatureMaps], Vectors]
) -> Regions:
    """Return the requested regions of a feature map, float32[H, W, C], with their vectors.

    `vectors_of` is the model's head with its normalisation, float32[N, H, W, C] to float32[N, D]. Proposals without a
    usable vector are left out.
    """
    proposals = (
        RegionVector(proposal.box, pool(feature_map, proposal.box, vectors_of), proposal.saliency)
        for proposal in propose(feature_map, request.max_regions)
    )
    return Regions(
        tuple(region for region in proposals if np.isfinite(region.values).all() and region.values.any()),
        tuple(RegionVector(box, pool(feature_map, box, vectors_of)) for box in request.boxes),
        salient_box(feature_map),
    )
