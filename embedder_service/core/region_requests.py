"""The rules for requests of regions, and the coordinates of their boxes.

Boxes of requests and responses are fractions of the whole upright image. The network sees only the part of the image
that is embedded, `image.region`.
"""

from dataclasses import replace

from embedder_service.core.image_decoding import REGION, check_region
from embedder_service.core.types import (
    MAX_BOXES,
    MAX_REGIONS,
    POOLABLE_HEADS,
    ImageVectors,
    ModelInfo,
    Region,
    RegionRequest,
    Regions,
    RegionVector,
)
from grpc_kit.errors import InvalidArgumentError


def check_request(request: RegionRequest, part: Region | None, info: ModelInfo) -> None:
    """Raise InvalidArgumentError if a model cannot embed the requested regions of a part of an image."""
    if not info.embeds_regions:
        # An encoder has one head only.
        suitable = "vgg16" if info.is_encoder else info.network
        raise InvalidArgumentError(
            "REGIONS_UNSUPPORTED",
            f"model {info.name} has head {info.head} and input {info.input.shape}; regions need a head of "
            f"{', '.join(POOLABLE_HEADS)} and input native, such as {suitable}-max-native",
            field="model",
            metadata={"model": info.name},
        )
    if not 0 <= request.max_regions <= MAX_REGIONS:
        raise InvalidArgumentError(
            "MAX_REGIONS_INVALID",
            f"{request.path}.max_regions is {request.max_regions}; it must be between 0 and {MAX_REGIONS}",
            field=f"{request.path}.max_regions",
        )
    if len(request.boxes) > MAX_BOXES:
        raise InvalidArgumentError(
            "TOO_MANY_BOXES",
            f"{request.path}.boxes has {len(request.boxes)} boxes; the maximum is {MAX_BOXES}",
            field=f"{request.path}.boxes",
        )
    if part is not None:
        check_region(part, REGION)
    for number, box in enumerate(request.boxes):
        field = request.path_of(number)
        check_region(box, field)
        if part is not None and not _is_within(box, part):
            raise InvalidArgumentError(
                "REGION_INVALID",
                f"{field} is {_shown(box)}; it must lie within image.region, {_shown(part)}",
                field=field,
            )


def _is_within(box: Region, part: Region) -> bool:
    return part.x0 <= box.x0 and box.x1 <= part.x1 and part.y0 <= box.y0 and box.y1 <= part.y1


def _shown(box: Region) -> str:
    return f"x0={box.x0:g}, y0={box.y0:g}, x1={box.x1:g}, y1={box.y1:g}"


def within(request: RegionRequest | None, part: Region | None) -> RegionRequest | None:
    """Return a request whose boxes are fractions of the part of the image that is embedded."""
    if request is None or part is None:
        return request
    width, height = part.x1 - part.x0, part.y1 - part.y0
    boxes = tuple(
        Region(
            (box.x0 - part.x0) / width,
            (box.y0 - part.y0) / height,
            (box.x1 - part.x0) / width,
            (box.y1 - part.y0) / height,
        )
        for box in request.boxes
    )
    return replace(request, boxes=boxes)


def of_whole_image(vectors: ImageVectors, request: RegionRequest | None, part: Region | None) -> ImageVectors:
    """Return vectors whose boxes are fractions of the whole image; the boxes of the request are unchanged."""
    regions = vectors.regions
    if regions is None or request is None or part is None:
        return vectors

    def outside(box: Region) -> Region:
        width, height = part.x1 - part.x0, part.y1 - part.y0
        return Region(
            part.x0 + box.x0 * width,
            part.y0 + box.y0 * height,
            # Rounding must not move an edge out of the part.
            min(part.x0 + box.x1 * width, part.x1),
            min(part.y0 + box.y1 * height, part.y1),
        )

    proposals = tuple(replace(region, box=outside(region.box)) for region in regions.proposals)
    boxes = tuple(RegionVector(box, region.values) for box, region in zip(request.boxes, regions.boxes, strict=True))
    return replace(vectors, regions=Regions(proposals, boxes, outside(regions.salient_box)))
