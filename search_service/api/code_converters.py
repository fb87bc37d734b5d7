"""Convert messages of binary codes to plain values and back."""

import numpy as np
from imagesearch.search.v1 import codes_pb2

from search_service.api.converters import timestamp_to
from search_service.core.code_sets import CodeSetStatus, Encoding
from search_service.core.codes import CodeTransform, transform_invalid
from search_service.core.types import CodeSet


def transform_from(message: codes_pb2.CodeTransform, dimension: int) -> CodeTransform:
    """Return a transform. Raises InvalidArgumentError if a normal does not have this dimension."""
    rows = np.empty((len(message.hyperplanes), dimension + 1), np.float32)
    for position, hyperplane in enumerate(message.hyperplanes):
        field = f"transform.hyperplanes[{position}].normal"
        if len(hyperplane.normal) != dimension:
            raise transform_invalid(
                f"{field} has {len(hyperplane.normal)} components; it must have {dimension}, like the vectors", field
            )
        rows[position, :-1], rows[position, -1] = hyperplane.normal, hyperplane.offset
    return CodeTransform(rows)


def code_set_to(codes: CodeSet) -> codes_pb2.CodeSet:
    """Return the message of a code set."""
    return codes_pb2.CodeSet(
        version=codes.version,
        number=codes.number,
        bits=codes.bits,
        create_time=timestamp_to(codes.create_time),
        ready=codes.ready,
    )


def encoding_to(encoding: Encoding) -> codes_pb2.EncodeImagesResponse:
    """Return the message of the progress of an encoding."""
    return codes_pb2.EncodeImagesResponse(
        checked_count=encoding.checked,
        encoded_count=encoding.encoded,
        removed_count=encoding.removed,
        image_count=encoding.image_count,
        codes=code_set_to(encoding.ready) if encoding.ready else None,
    )


def status_to(status: CodeSetStatus) -> codes_pb2.CodeSetStatus:
    """Return the message of a code set and its size."""
    return codes_pb2.CodeSetStatus(codes=code_set_to(status.codes), code_count=status.count, code_bytes=status.size)
