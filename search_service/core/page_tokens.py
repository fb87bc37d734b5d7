"""Page tokens: where a page ended, as a text that only this service can make and that fits only its own request."""

import base64
import hmac
import json
from typing import TypeAlias

from grpc_kit.errors import InvalidArgumentError

# Plain values that JSON keeps as they are.
Position: TypeAlias = list[str | int | float]
SIGNATURE_BYTES = 16


class PageTokens:
    """Makes and reads page tokens."""

    def __init__(self, key: bytes) -> None:
        """Replicas that serve the same callers need the same key."""
        self._key = key

    def make(self, request: bytes, position: Position) -> str:
        """The token of the page that follows `position`. `request` is the digest of the request, less its paging."""
        return self.seal(request, json.dumps(position, separators=(",", ":")).encode())

    def read(self, token: str, request: bytes) -> Position | None:
        """The position of a token; None where it is empty. Raises InvalidArgumentError."""
        payload = self.open(token, request)
        if payload is None:
            return None
        position: Position = json.loads(payload)
        return position

    def seal(self, request: bytes, payload: bytes) -> str:
        """As `make`, of a position that is bytes already."""
        return base64.urlsafe_b64encode(self._signature(request, payload) + payload).rstrip(b"=").decode()

    def open(self, token: str, request: bytes) -> bytes | None:
        """As `read`, of such a position. Raises InvalidArgumentError."""
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
        "page_token is not one that this service gave for this request; all but page_token and the page's size should "
        "be as they were for the page before",
        field="page_token",
    )
