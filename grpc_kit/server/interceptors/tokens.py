"""Checks bearer tokens."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from grpc_kit.errors import UnauthenticatedError

SCHEME = "bearer "
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


class Tokens:
    """The valid tokens of a server. Each call sends one as "authorization: Bearer TOKEN"."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """Create the check. Several valid tokens allow callers to change to a new token one by one."""
        self._digests = [_digest(token) for token in tokens]

    def check(self, metadata: Metadata | None) -> None:
        """Check the metadata of a call. Raises UnauthenticatedError."""
        values = [value for key, value in metadata or () if key == "authorization"]
        shown = values[0] if len(values) == 1 else ""
        if not isinstance(shown, str) or not shown[: len(SCHEME)].lower() == SCHEME:
            raise UnauthenticatedError(
                "TOKEN_MISSING", 'the call has no token; send it as metadata "authorization: Bearer TOKEN"'
            )
        if not self._is_valid(shown[len(SCHEME) :]):
            raise UnauthenticatedError("TOKEN_INVALID", "the token is not valid for this server")

    def _is_valid(self, token: str) -> bool:
        # Compare all digests, which have equal lengths: the duration then reveals nothing about a valid token.
        digest = _digest(token)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
