"""Page tokens: the position of the end of a page, as a signed text that is valid only for the same request."""

import base64
import hmac
import json
from typing import TypeAlias

from grpc_kit.errors import InvalidArgumentError

# Values that JSON stores exactly.
Position: TypeAlias = list[str | int | float]
SIGNATURE_BYTES = 16


class PageTokens:
    """Create and read page tokens."""

    def __init__(self, key: bytes) -> None:
        """Sign with `key`, which all replicas share."""
        self._key = key

    def make(self, request: bytes, position: Position) -> str:
        """Return the token for the page after `position`. `request` is a digest of the request's other fields."""
        return self.sign(request, json.dumps(position, separators=(",", ":")).encode())

    def read(self, token: str, request: bytes) -> Position | None:
        """Return the position in a token; None if the token is empty. Raises InvalidArgumentError."""
        payload = self.verify(token, request)
        if payload is None:
            return None
        position: Position = json.loads(payload)
        return position

    def sign(self, request: bytes, payload: bytes) -> str:
        """Return the token for a position in bytes."""
        return base64.urlsafe_b64encode(self._signature(request, payload) + payload).rstrip(b"=").decode()

    def verify(self, token: str, request: bytes) -> bytes | None:
        """Check a token and return its position as bytes; None if the token is empty. Raises InvalidArgumentError."""
        if not token:
            return None
        try:
            signed = base64.b64decode(token + "=" * (-len(token) % 4), altchars="-_", validate=True)
        except ValueError:
            raise _invalid() from None
        signature, payload = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(request, payload)):
            raise _invalid()
        return payload

    def _signature(self, request: bytes, payload: bytes) -> bytes:
        return hmac.digest(self._key, request + payload, "sha256")[:SIGNATURE_BYTES]


def _invalid() -> InvalidArgumentError:
    return InvalidArgumentError(
        "PAGE_TOKEN_INVALID",
        "page_token is invalid for this request; send the next_page_token of the previous response, and the same "
        "request except for page_token and the page size",
        field="page_token",
    )
