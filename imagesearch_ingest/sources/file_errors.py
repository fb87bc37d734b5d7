"""Turn errors of reading files into OSErrors, and tell transient from permanent ones."""

import errno
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from itertools import chain

# HTTP statuses after which the same request may succeed.
TRANSIENT_STATUSES = frozenset({408, 425, 429, *range(500, 600)} - {501, 505, 511})
# Errors that reading again cannot fix.
PERMANENT_ERRNOS = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EFBIG, errno.ENOSYS, errno.ENODEV, errno.ENXIO, errno.EEXIST, errno.ENOTEMPTY, errno.EMSGSIZE,
    errno.EOVERFLOW, errno.EOPNOTSUPP,
    # s3fs raises it for a bucket in another region.
    getattr(errno, "EREMCHG", errno.ENOENT),
})  # fmt: skip
# Errors of botocore about the connection. Its other errors are about settings and credentials.
CONNECTION_ERRORS = frozenset({"HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseParserError"})
PASSWORD = re.compile(
    r"(?<![A-Za-z0-9+.-])((?:https?|ftps?|sftp|ssh|smb|webdavs?|hdfs|webhdfs)://)([^/?#\s]*)@", re.IGNORECASE
)
UNAUTHORIZED = 401
MESSAGE_LENGTH = 300


class ServerBusyError(OSError):
    """A server refuses a request for now, and says how long to wait."""

    def __init__(self, message: str, url: str, retry_after: float) -> None:
        """Set the seconds to wait before the next request."""
        super().__init__(errno.EBUSY, message, url)
        self.retry_after = retry_after


def is_permanent(error: OSError) -> bool:
    """Return whether reading the file again cannot succeed: it is missing, forbidden, or not a file."""
    # Errors of the system have a number, and so have those that `as_os_errors` makes.
    return error.errno is None or error.errno in PERMANENT_ERRNOS


def without_password(text: str) -> str:
    """Return a text with the passwords of its URLs removed, so that messages and uris do not contain them."""
    return PASSWORD.sub(lambda found: found[1] + _user_of(found[1], found[2]), text)


def _user_of(protocol: str, userinfo: str) -> str:
    # A web server reads a user without a password as a user with an empty one, so the user is removed too.
    user, colon, _ = userinfo.partition(":")
    return "" if protocol.lower().startswith("http") else f"{user}@" if colon else f"{userinfo}@"


@contextmanager
def as_os_errors(url: str) -> Iterator[None]:
    """Convert the errors of file system libraries to OSErrors. Passwords in URLs are removed.

    Errors that only a bug of this package can raise stay as they are.
    """
    try:
        yield
    except Exception as error:
        if _is_own_bug(error):
            raise
        raise _as_os_error(error, without_password(url)) from error


def _is_own_bug(error: Exception) -> bool:
    """Return whether the code of this package has raised an error other than OSError or ValueError."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    is_own = str(frame.f_globals.get("__name__", "")).startswith("imagesearch_ingest.")
    return is_own and not isinstance(error, OSError | ValueError)


def _as_os_error(error: Exception, url: str) -> OSError:
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(errno.ENOENT, "there is no such file", url)
    # gcsfs raises an OSError without a number.
    if isinstance(error, PermissionError) or status in (401, 403) or str(error).startswith("Forbidden: "):
        hint = "; ~/.netrc may have a user and a password for the server" if status == UNAUTHORIZED else ""
        return PermissionError(errno.EACCES, f"access is denied: {one_line(error)}{hint}", url)
    if isinstance(error, TimeoutError):
        return TimeoutError(errno.ETIMEDOUT, "no answer in time", url)
    if (seconds := _retry_after(error)) is not None:
        return ServerBusyError(one_line(error), url, seconds)
    return OSError(_number(error, status), one_line(error), url)


def _number(error: Exception, status: int | None) -> int:
    """Return the errno that fits an error best."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "ClientConnectorError" in names:
        return errno.ECONNREFUSED
    if isinstance(error, OSError) and error.errno is not None and error.errno in PERMANENT_ERRNOS:
        return error.errno
    is_refused = status is not None and status not in TRANSIENT_STATUSES
    is_misused = isinstance(error, ValueError | TypeError | NotImplementedError)
    is_configuration = "BotoCoreError" in names and not names & CONNECTION_ERRORS
    return errno.EINVAL if is_refused or is_misused or is_configuration else errno.EIO


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an error; None if it has none."""
    # aiohttp names it `status`, gcsfs names it `code`.
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) and status >= 100 else None  # noqa: PLR2004 - the lowest status


def _retry_after(error: BaseException) -> float | None:
    """Return the seconds that a server asks to wait; None if it does not say, or if waiting does not help."""
    if (status := _status(error)) is not None and status not in TRANSIENT_STATUSES:
        return None
    text = _header(error, "retry-after").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    # Use the server's clock if it sends the time: the two clocks may differ.
    try:
        now = parsedate_to_datetime(_header(error, "date")).timestamp()
    except ValueError:
        now = time.time()
    return max(moment - now, 0.0)


def _header(error: BaseException, name: str) -> str:
    """Return a header of the response that caused an error, from aiohttp or botocore."""
    answer = getattr(error.__cause__, "response", None)
    of_boto = answer.get("ResponseMetadata", {}).get("HTTPHeaders") if isinstance(answer, dict) else None
    for key, value in chain((getattr(error, "headers", None) or {}).items(), (of_boto or {}).items()):
        if str(key).lower() == name:
            return str(value)
    return ""


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, without passwords."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    text = getattr(error, "strerror", None) or str(error)
    return without_password(" ".join(str(text).split()))[:MESSAGE_LENGTH] or type(error).__name__
