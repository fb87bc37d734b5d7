"""Read files and index pages of web servers. An address is requested exactly as it was written.

fsspec's own HTTP file system decodes addresses, reports an unavailable server as a missing file, and follows redirects
with another spelling. So only its event loop and its session are used.
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
# Links that are not paths. Any other name before a colon is part of a file name.
NO_PATH = re.compile("(javascript|mailto|data|tel|sms|about|blob|file|ftp|news|magnet):", re.IGNORECASE)
STRAY_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# Characters that stay unencoded: in the name of a file, and in a written address. A written address may be encoded
# already, and often has plain brackets.
NAME_CHARACTERS = "/:@!$&'()*+,;=~"
WRITTEN_CHARACTERS = NAME_CHARACTERS + "%[]?"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 10
SLOW_CONNECTION, SLOW_ANSWER = 30.0, 60.0
# Bytes of an index page; enough for half a million links.
MAX_INDEX_PAGE = 64 * 2**20
PARTIAL, MULTIPLE_CHOICES, BAD_REQUEST = 206, 300, 400


async def open_session(**options: Any) -> Any:
    """Return a session without a limit on connections. The number of readers limits them."""
    import aiohttp  # noqa: PLC0415 - an extra

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), **options)


def address(url: str) -> "URL":
    """Return the address to request. Encoded characters stay, and only forbidden characters are encoded.

    Raises ValueError if it is not the address of a web server.
    """
    from yarl import URL  # noqa: PLC0415 - an extra of fsspec's

    parts = PARTS.match(url)
    if parts is None:
        raise ValueError(f"{url} is not the address of a web server")
    server = URL(f"{parts['scheme'].lower()}://{parts['authority']}/")
    path, query = (_quoted(parts[name] or "") for name in ("path", "query"))
    return URL(f"{server.scheme}://{server.raw_authority}{path or '/'}{query}", encoded=True)


def _quoted(text: str) -> str:
    return quote(STRAY_PERCENT.sub("%25", text), safe=WRITTEN_CHARACTERS, errors="surrogateescape")


def encoded_name(path: str) -> str:
    """Return the encoded path of a file, relative to its folder."""
    return quote(path, safe=NAME_CHARACTERS, errors="surrogateescape")


def path_of(url: str) -> str:
    """Return the path of an address, without the query and the fragment."""
    parts = PARTS.match(url)
    return parts["path"] if parts is not None else ""


def join(base: str, link: str) -> str:
    """Return the address to which a link on the page `base` leads. Empty segments stay."""
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
    """Return the response after redirects, with any status. Raises OSError and aiohttp's errors."""
    from aiohttp import ClientTimeout  # noqa: PLC0415 - an extra of fsspec's

    timeout = ClientTimeout(total=None, sock_connect=SLOW_CONNECTION, sock_read=SLOW_ANSWER)
    session = await system.set_session()
    for _ in range(MAX_REDIRECTS + 1):
        response: ClientResponse = await session.request(
            method,
            address(url),
            # A compressed response could not be resumed.
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
            problem = f"it redirects to {secret}, a cloud metadata service with secrets"
            raise PermissionError(errno.EACCES, problem, url)
    raise OSError(errno.ELOOP, f"the server redirects more than {MAX_REDIRECTS} times", url)


def check_status(response: "ClientResponse") -> None:
    """Raise an error if the response is not the file."""
    response.raise_for_status()
    if response.status >= MULTIPLE_CHOICES:
        raise OSError(errno.EINVAL, f"the server answers {response.status} without a new address")


async def _read(system: "FileSystem", url: str, limit: int) -> bytes:
    async with await request(system, url, {}) as response:
        check_status(response)
        if response.status == PARTIAL and not _is_whole(response):
            raise OSError(errno.EIO, "the server sends only a part of the file")
        return await _content(response, limit)


async def _content(response: "ClientResponse", limit: int) -> bytes:
    """Return the beginning of a response: a server may send one of any length."""
    content = bytearray()
    while len(content) < limit and (part := await response.content.read(limit - len(content))):
        content += part
    return bytes(content)


def _is_whole(response: "ClientResponse") -> bool:
    found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    return found is not None and found[1] == "0" and found[3] == str(int(found[2]) + 1)


def read(system: "FileSystem", url: str, limit: int) -> bytes:
    """Return the beginning of a file, at most `limit` bytes. Raises OSError and aiohttp's errors."""
    return bytes(sync(system.loop, _read, system, url, limit))


def details(system: "FileSystem", url: str) -> dict[str, object]:
    """Return the size and the ETag of a file, if the server sends them. Raises the same errors as `read`."""

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
    """Return the size of the file; None if the server does not send it, or compresses the file."""
    is_encoded = response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity")
    return None if is_encoded else response.content_length


class _Links(HTMLParser):
    """Collects the links of a page, with decoded character references."""

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
    """Return the links of a folder's index page that lead below the folder, in the form of fsspec's listings.

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
    # After a redirect the links are relative to the page's own address.
    folder = folder.partition("?")[0]
    folders = [folder, page]
    found: dict[str, dict[str, object]] = {
        below: {"name": folder + below, "type": "directory" if below.endswith("/") else "file"}
        for link in parser.links
        if (below := next(filter(None, (_below(join(base, link), each) for each in folders)), ""))
    }
    return list(found.values())


def _charset(response: "ClientResponse") -> str:
    # Names are percent-encoded, so only encodings that keep all ASCII bytes matter.
    return "latin-1" if (response.charset or "").lower() in ("latin-1", "iso-8859-1", "windows-1252") else "utf-8"


def _below(link: str, folder: str) -> str:
    """Return the part of a link below a folder of the same server, as written; an empty string for other links."""
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
