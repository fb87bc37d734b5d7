"""Downloads files of the package index as data. It builds, installs, imports and runs nothing of them.

The index, its certificates, proxies and passwords come from pip's configuration.
"""

import ast
import errno
import logging
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from unearth import Link, PackageFinder
    from unearth.fetchers import Fetcher, PyPIClient

# Sections of pip's configuration for a download; later sections override earlier ones.
SECTIONS = ("global", "download", ":env:")
CONNECT_SECONDS = 10.0
# Seconds to wait for an answer or for the next byte: the default, and the maximum for pip's own setting.
READ_SECONDS, MAX_READ_SECONDS = 15.0, 60.0
# Attempts of a download if the connection breaks.
ATTEMPTS = 3


class DownloadError(Exception):
    """A file of the package index is not available. The message names the reason for each index."""


@dataclass(frozen=True)
class IndexFile:
    """A file of the package index."""

    requirement: str
    """NAME==VERSION."""
    sha256: str
    size: int
    """In bytes; a larger file is refused."""
    is_wheel: bool


def download(wanted: IndexFile, folder: Path, report: Callable[[int], None]) -> Path:
    """Download a file and return its path: in `folder`, or in place if the index is a folder of this machine.

    `report` receives the number of bytes so far. Raises DownloadError.
    """
    settings = pip_settings()
    reasons: list[str] = []
    with _warnings_in(reasons), _client(settings) as client:
        for finder in _finders(settings, cast("Fetcher", client)):
            for link in _links(finder, wanted, reasons):
                found = _downloaded(finder, link, wanted, folder, report, reasons)
                if found is not None:
                    return found
    problems = "; ".join(dict.fromkeys(reasons)) or "no index has it"
    raise DownloadError(f"{wanted.requirement} cannot be downloaded: {_without_passwords(problems)}")


def pip_settings() -> dict[str, str]:
    """Return the settings that pip has for downloads, from its files and from the environment. Raises DownloadError."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        reason = listed.stderr.strip().splitlines()[-1:] or ["it failed"]
        raise DownloadError(f"pip does not report its package index: {reason[0]}")
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in found:
            found[section][name] = str(ast.literal_eval(value))
    return {name: value for section in SECTIONS for name, value in found[section].items()}


def _client(settings: Mapping[str, str]) -> "PyPIClient":
    """Return an HTTP client with pip's certificates, proxy and passwords (from addresses, netrc and keyring)."""
    import httpx2  # noqa: PLC0415 - only a fetch needs it
    from unearth.auth import MultiDomainBasicAuth  # noqa: PLC0415 - as above
    from unearth.fetchers import PyPIClient  # noqa: PLC0415 - as above

    verify: ssl.SSLContext | bool = True
    if certificates := settings.get("cert"):
        file = Path(certificates)
        if not file.exists():
            raise DownloadError(f"pip's setting cert is {certificates}; this file does not exist")
        verify = ssl.create_default_context(capath=file) if file.is_dir() else ssl.create_default_context(cafile=file)
    if client_certificate := settings.get("client-cert"):
        verify = verify if isinstance(verify, ssl.SSLContext) else ssl.create_default_context()
        verify.load_cert_chain(client_certificate)
    seconds = float(settings.get("timeout") or settings.get("default-timeout") or READ_SECONDS)
    client = PyPIClient(
        trusted_hosts=settings.get("trusted-host", "").split(),
        verify=verify,
        timeout=httpx2.Timeout(min(seconds, MAX_READ_SECONDS), connect=min(seconds, CONNECT_SECONDS)),
        proxy=settings.get("proxy") or None,
        follow_redirects=True,
    )
    client.auth = MultiDomainBasicAuth(prompting=False, index_urls=_indexes(settings))
    return client


def _indexes(settings: Mapping[str, str]) -> list[str]:
    return f"{settings.get('index-url', '')} {settings.get('extra-index-url', '')}".split()


def _finders(settings: Mapping[str, str], session: "Fetcher") -> Iterator["PackageFinder"]:
    """Yield a finder for each index. So the next index is used if one does not answer."""
    from unearth import PackageFinder  # noqa: PLC0415 - only a fetch needs it

    for location in settings.get("find-links", "").split():
        yield PackageFinder(session, find_links=[location], ignore_compatibility=True)
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        return
    if not settings.get("index-url"):
        # Without an address the finder uses pip's default.
        yield PackageFinder(session, ignore_compatibility=True)
    for url in _indexes(settings):
        yield PackageFinder(session, index_urls=[url], ignore_compatibility=True)


def _links(finder: "PackageFinder", wanted: IndexFile, reasons: list[str]) -> Iterator["Link"]:
    """Yield the links of one index that may be the wanted file. Append problems to `reasons`."""
    index = finder.sources[0]["url"]
    try:
        links = [package.link for package in finder.find_matches(wanted.requirement)]
    except (OSError, ValueError, _http_error()) as error:
        reasons.append(f"{index}: {_text(error)}")
        return
    for link in (link for link in links if link.is_wheel == wanted.is_wheel):
        digests = (link.hash_option or {}).get("sha256", [wanted.sha256])
        if wanted.sha256 in digests:
            yield link
        else:
            reasons.append(f"{link.redacted} has SHA-256 {digests[0]}, expected {wanted.sha256}")


def _downloaded(
    finder: "PackageFinder",
    link: "Link",
    wanted: IndexFile,
    folder: Path,
    report: Callable[[int], None],
    reasons: list[str],
) -> Path | None:
    """Return the verified file of a link. If it is not available, return None and append the problem to `reasons`."""
    import httpx2  # noqa: PLC0415 - only a fetch needs it
    from unearth.errors import HashMismatchError, UnpackError  # noqa: PLC0415 - as above

    def on_progress(link: "Link", completed: int, total: int | None) -> None:  # noqa: ARG001 - the library's signature
        if completed > wanted.size:
            raise DownloadError(f"{link.redacted} is larger than the expected {wanted.size} bytes")
        report(completed)

    for number in range(1, ATTEMPTS + 1):
        try:
            return finder.download(link, folder, {"sha256": [wanted.sha256]}, on_progress)
        except HashMismatchError as error:
            reasons.append(f"{link.redacted} has SHA-256 {error.actual['sha256']}, expected {wanted.sha256}")
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            if number < ATTEMPTS:
                continue
            reasons.append(f"{link.redacted}: the connection broke {ATTEMPTS} times: {_text(error)}")
        except (UnpackError, DownloadError, httpx2.HTTPError) as error:
            reasons.append(f"{link.redacted}: {_text(error)}")
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DownloadError(f"{folder} has no space for {wanted.size / 1e6:.0f} MB: {error.strerror}") from None
            reasons.append(f"{link.redacted}: {_text(error)}")
        break
    return None


@contextmanager
def _warnings_in(reasons: list[str]) -> Iterator[None]:
    """Collect warnings that the library only logs, such as that an index refuses, or is not trusted."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: reasons.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("unearth")
    propagates, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagates


def _http_error() -> type[Exception]:
    import httpx2  # noqa: PLC0415 - only a fetch needs it

    return httpx2.HTTPError


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _without_passwords(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://****@", text)
