"""Errors of a load that concern more than one item."""

from grpc_kit.errors import UnavailableError


class LoadStoppedError(Exception):
    """The whole load cannot continue. The next run loads the items that are not recorded yet."""

    def __init__(self, reason: str, message: str) -> None:
        """Take the reason and the message of a ServiceError, or similar ones."""
        super().__init__(message)
        self.reason = reason
        self.message = message


class CallBrokenError(UnavailableError):
    """A call ended without a response for some of its items: the service stopped, or an item was too much for it."""
