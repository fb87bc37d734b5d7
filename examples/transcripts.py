"""Checks what a client printed."""

import re
from collections.abc import Sequence

# VGG16 with global average pooling.
DIMENSION = 512
SAME = 0.999


def faults_of_run(transcript: str, photos: Sequence[str]) -> list[str]:
    """Return the faults of a client that wrote these photographs and searched by the first of them."""
    hits = [(name, float(score)) for name, score in re.findall(r"^hit (\S+) (\S+)$", transcript, re.MULTILINE)]
    scores = [score for _, score in hits]
    claims = {
        "both servers serve": len(re.findall(r"^\S+ is SERVING$", transcript, re.MULTILINE)) == 2,  # noqa: PLR2004
        f"an image has {DIMENSION} values": f"embedded into {DIMENSION} values by vgg16-avg-" in transcript,
        "every photograph is stored": re.findall(r"^stored (\S+)$", transcript, re.MULTILINE) == list(photos),
        "the broken image is refused": has_error(
            transcript, "refused broken", "INVALID_ARGUMENT", "IMAGE_FORMAT_UNSUPPORTED", "image.content"
        ),
        "every photograph is found": sorted(name for name, _ in hits) == sorted(photos),
        "the query's own photograph is first, with score 1": bool(hits)
        and hits[0][0] == photos[0]
        and scores == sorted(scores, reverse=True)
        and SAME < scores[0] <= 1
        and all(score < SAME for score in scores[1:]),
        "the limit is refused": has_error(transcript, "search", "INVALID_ARGUMENT", "LIMIT_INVALID", "limit"),
    }
    return [f"not true: {claim}" for claim, holds in claims.items() if not holds]


def faults_of_outage(transcript: str, photos: Sequence[str]) -> list[str]:
    """Return the faults of a client whose search service cannot reach the embedder."""
    delays = re.findall(r"^  retry after (\d+\.\d+) s$", transcript, re.MULTILINE)
    claims = {
        f"the error of {what} is reported": has_error(transcript, what, "UNAVAILABLE", "EMBEDDER_UNAVAILABLE")
        for what in (*(f"refused {name}" for name in photos), "failed")
    }
    claims["every error says when to try again"] = len(delays) > len(photos) and all(float(delay) for delay in delays)
    return [f"not true: {claim}" for claim, holds in claims.items() if not holds]


def has_error(transcript: str, what: str, code: str, reason: str = "", field: str = "") -> bool:
    """Return whether an error was printed with its code, and the reason and the field of its details."""
    # Go writes codes as InvalidArgument.
    spellings = f"{code}|{''.join(word.capitalize() for word in code.split('_'))}"
    details = f"\n  reason {reason} of \\S+" if reason else ""
    details += f"\n  field {re.escape(field)}: .+" if field else ""
    return re.search(rf"^{what}: ({spellings}) .*{details}$", transcript, re.MULTILINE) is not None
