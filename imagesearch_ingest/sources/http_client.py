"""Files and index pages of web servers. An address is asked as it was written.

fsspec's own file system for the web decodes addresses, takes an unavailable server for a missing file, and follows
redirects with another spelling. Of fsspec come the event loop and the session.
"""

import asyncio
import errno
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from fsspec.asyn import sync

from imagesearch_ingest.sources.metadata_addresses import metadata_address

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from yarl import URL

    from imagesearch_ingest.sources.remote_files import FileSystem

PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?", re.DOTALL
)
# What else is no path; any other name before a colon is a file's.
NO_PATH = re.compile("(javascript|mailto|data|tel|sms|about|blob|file|ftp|news|magnet):", re.IGNORECASE)
STRAY_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# What stays in a path as it is. In a written address what is encoded stays too, and brackets, which many leave as is.
NAME_CHARACTERS = "/:@!$&'()*+,;=~"
WRITTEN_CHARACTERS = NAME_CHARACTERS + "%[]?"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10
SLOW_CONNECTION, SLOW_ANSWER = 30.0, 60.0
# Bytes of an index page: half a million links have about so many.
MAX_INDEX_PAGE = 64 * 2**20
PARTIAL, MULTIPLE_CHOICES, BAD_REQUEST = 206, 300, 400


async def open_session(**options: Any) -> Any:
    """Return a session whose connections are bounded by the number of readers alone."""
    import aiohttp  # noqa: PLC0415 - an extra

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), **options)


def address(url: str) -> "URL":
    """Return the address as it is asked: what is encoded stays so, and only what may not be in an address is encoded.

    Raises ValueError if it is no address.
    """
    from yarl import URL  # noqa: PLC0415 - an extra of fsspec's

    parts = PARTS.match(url)
    if parts is None:
        raise ValueError(f"{url} is no address of a web server")
    server = URL(f"{parts['scheme'].lower()}://{parts['authority']}/")
    path, query = (_quoted(parts[name] or "") for name in ("path", "query"))
    return URL(f"{server.scheme}://{server.raw_authority}{path or '/'}{query}", encoded=True)


def _quoted(text: str) -> str:
    return quote(STRAY_PERCENT.sub("%25", text), safe=WRITTEN_CHARACTERS, errors="surrogateescape")


def encoded_name(path: str) -> str:
    """Return the path of a file, relative to a folder, as its address has it."""
    return quote(path, safe=NAME_CHARACTERS, errors="surrogateescape")


def path_of(url: str) -> str:
    """Return the path of an address, without its query and fragment."""
    parts = PARTS.match(url)
    return parts["path"] if parts is not None else ""


def join(base: str, link: str) -> str:
    """Return the address that a link on the page `base` leads to; empty segments stay."""
    parts = PARTS.match(base)
    if parts is None or PARTS.match(link) or NO_PATH.match(link):
        return link
    if link.startswith("//"):
        return f"{parts['scheme']}:{link}"
    server = f"{parts['scheme']}://{parts['authority']}"
    path, mark, rest = re.match("([^?#]*)([?#]?)(.*)", link, re.DOTALL).groups()  # type: ignore[union-attr]
    if not path:
        return f"{server}{parts['path']}{mark}{rest}"
    if not path.startswith("/"):
        path = (parts["path"].rpartition("/")[0] or "") + "/" + path
    return f"{server}{_without_dots(path)}{mark}{rest}"


def _without_dots(path: str) -> str:
    kept: list[str] = []
    *folders, name = path.split("/")
    for step in folders:
        if step == ".." and len(kept) > 1:
            kept.pop()
        elif step not in (".", ".."):
            kept.append(step)
    if name == ".." and len(kept) > 1:
        kept.pop()
    return "/".join([*kept, "" if name in (".", "..") else name])


async def request(system: "FileSystem", url: str, headers: Mapping[str, str], method: str = "GET") -> "ClientResponse":
    """Return the answer, after redirects, of whatever status. Raises OSError and aiohttp's errors."""
    from aiohttp import ClientTimeout  # noqa: PLC0415 - an extra of fsspec's

    timeout = ClientTimeout(total=None, sock_connect=SLOW_CONNECTION, sock_read=SLOW_ANSWER)
    session = await system.set_session()
    for _ in range(MAX_REDIRECTS + 1):
        response: ClientResponse = await session.request(
            method,
            address(url),
            # What is compressed on its way cannot be resumed where it broke off.
            headers={"Accept-Encoding": "identity", **headers},
            timeout=timeout,
            allow_redirects=False,
        )
        location = response.headers.get("Location", "")
        if response.status not in REDIRECTS or not location:
            return response
        response.release()
        host, url = address(url).host, join(str(address(url).with_user(None)), location)
        other = address(url).host or ""
        if other != host and (secret := await asyncio.to_thread(metadata_address, other)):
            problem = f"it redirects to {secret}, where clouds keep a machine's secrets"
            raise PermissionError(errno.EACCES, problem, url)
    raise OSError(errno.ELOOP, f"the server redirects more than {MAX_REDIRECTS} times", url)


def check_status(response: "ClientResponse") -> None:
    """Raise if the answer is not the file."""
    response.raise_for_status()
    if response.status >= MULTIPLE_CHOICES:
        raise OSError(errno.EINVAL, f"the server answers {response.status} and names no other address")


async def _read(system: "FileSystem", url: str, limit: int) -> bytes:
    async with await request(system, url, {}) as response:
        check_status(response)
        if response.status == PARTIAL and not _is_whole(response):
            raise OSError(errno.EIO, "the server sends a part of the file only")
        return await _content(response, limit)


async def _content(response: "ClientResponse", limit: int) -> bytes:
    """Return the beginning of an answer: a server may send one of any length."""
    content = bytearray()
    while len(content) < limit and (part := await response.content.read(limit - len(content))):
        content += part
    return bytes(content)


def _is_whole(response: "ClientResponse") -> bool:
    found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    return found is not None and found[1] == "0" and found[3] == str(int(found[2]) + 1)


def read(system: "FileSystem", url: str, limit: int) -> bytes:
    """Return the file from its beginning, at most so many bytes. Raises OSError and aiohttp's errors."""
    return bytes(sync(system.loop, _read, system, url, limit))


def details(system: "FileSystem", url: str) -> dict[str, object]:
    """Return what the server says of a file: its size and its ETag, as far as it does. Raises as `read` does."""

    async def ask() -> dict[str, object]:
        for method in ("HEAD", "GET"):
            async with await request(system, url, {}, method) as response:
                if method == "HEAD" and response.status >= BAD_REQUEST:
                    continue
                check_status(response)
                return {"size": size_of(response), "ETag": response.headers.get("ETag")}
        return {}

    return dict(sync(system.loop, ask))


def size_of(response: "ClientResponse") -> int | None:
    """Return the bytes of the file; None if the server does not say, or sends it compressed."""
    is_encoded = response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity")
    return None if is_encoded else response.content_length


class _Links(HTMLParser):
    """Collects the links of a page; character references in them are decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs).get("href")
        if tag == "base" and link and not self.base:
            self.base = link.strip()
        elif tag == "a" and link:
            self.links.append(link.strip())


def list_folder(system: "FileSystem", folder: str) -> list[dict[str, object]]:
    """Return what the index page of a folder links to below it, as fsspec's listings have it; other links are none.

    Raises OSError and aiohttp's errors.
    """

    async def ask() -> tuple[str, str]:
        async with await request(system, folder, {}) as response:
            check_status(response)
            if response.content_type not in ("text/html", "application/xhtml+xml", "application/octet-stream"):
                return "", folder
            content = await _content(response, MAX_INDEX_PAGE + 1)
            if len(content) > MAX_INDEX_PAGE:
                raise OSError(errno.EFBIG, f"its index page has more than {MAX_INDEX_PAGE} bytes", folder)
            return content.decode(_charset(response), errors="surrogateescape"), str(response.url)

    text, page = sync(system.loop, ask)
    parser = _Links()
    parser.feed(text)
    base = join(page, parser.base) if parser.base else page
    # After a redirect the page's links are below its own address.
    folder = folder.partition("?")[0]
    folders = [folder, page]
    found: dict[str, dict[str, object]] = {
        below: {"name": folder + below, "type": "directory" if below.endswith("/") else "file"}
        for link in parser.links
        if (below := next(filter(None, (_below(join(base, link), each) for each in folders)), ""))
    }
    return list(found.values())


def _charset(response: "ClientResponse") -> str:
    # Other encodings have no bytes that stand for themselves, and names are encoded in any case.
    return "latin-1" if (response.charset or "").lower() in ("latin-1", "iso-8859-1", "windows-1252") else "utf-8"


def _below(link: str, folder: str) -> str:
    """Return the part of a link that is below a folder of the same server, as it is written; else nothing."""
    one, other = PARTS.match(link), PARTS.match(folder)
    if one is None or other is None or _server(one) != _server(other):
        return ""
    above = other["path"].split("/")[:-1] or [""]
    steps = one["path"].split("/")
    if [unquote(step) for step in steps[: len(above)]] != [unquote(step) for step in above]:
        return ""
    below = "/".join(steps[len(above) :])
    return below + (one["query"] or "") if below and not (below.endswith("/") and one["query"]) else ""


def _server(parts: "re.Match[str]") -> str:
    authority = parts["authority"].rpartition("@")[2].lower()
    return authority.removesuffix(":443" if parts["scheme"].lower() == "https" else ":80")


def steps_of(path: str) -> Iterator[str]:
    """Yield the segments of a path, decoded."""
    return map(unquote, path.partition("?")[0].split("/"))
