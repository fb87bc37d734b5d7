"""Lets in who shows a token."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from grpc_kit.errors import UnauthenticatedError

SCHEME = "bearer "
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


class Tokens:
    """The tokens of a server, of which each call shows one as "authorization: Bearer TOKEN"."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """More than one token lets callers change theirs one by one."""
        self._digests = [_digest(token) for token in tokens]

    def check(self, metadata: Metadata | None) -> None:
        """Look at a call's metadata. Raises UnauthenticatedError."""
        values = [value for key, value in metadata or () if key == "authorization"]
        shown = values[0] if len(values) == 1 else ""
        if not isinstance(shown, str) or not shown[: len(SCHEME)].lower() == SCHEME:
            raise UnauthenticatedError(
                "TOKEN_MISSING", 'this server wants a token, as metadata "authorization: Bearer TOKEN"'
            )
        if not self._knows(shown[len(SCHEME) :]):
            raise UnauthenticatedError("TOKEN_INVALID", "the token is none of this server's")

    def _knows(self, token: str) -> bool:
        # Digests of equal length, and all of them looked at: the time tells nothing of how much of a token was right.
        digest = _digest(token)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
