"""Addresses are requested as written, and broken downloads resume."""

import errno
import gzip
import io
import json
import os
import random
import threading
import zipfile
from collections.abc import Iterator
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpc_kit.errors import NotFoundError, UnavailableError
from imagesearch_ingest.load.image_reader import read_image
from imagesearch_ingest.sources import http_client
from imagesearch_ingest.sources.file_errors import is_permanent, without_password
from imagesearch_ingest.sources.http_client import address, join
from imagesearch_ingest.sources.items import Fault, Item, SourceEntry, SourceError
from imagesearch_ingest.sources.open_source import open_source
from imagesearch_ingest.sources.remote_files import open_stream, read_url
from imagesearch_ingest.sources.source_options import SourceOptions
from imagesearch_ingest.sources.source_retries import SourceRetries, thread_retries
from imagesearch_ingest.sources.uri_reader import UriReader
from tests.unit.ingest.sources.conftest import archive
from tests.unit.ingest.sources.scripted_server import Answer, Scripted, serving

LIMIT = 1_000_000


@pytest.fixture
def server() -> Iterator[Scripted]:
    with serving() as scripted:
        yield scripted


@pytest.fixture
def patient() -> Iterator[None]:
    token = thread_retries.set(SourceRetries(20))
    yield
    thread_retries.reset(token)


def opened(source: str | Path, **options: Any) -> list[SourceEntry]:
    return list(open_source(str(source), SourceOptions(**options)))


def items(source: str | Path, **options: Any) -> list[Item]:
    found = opened(source, **options)
    assert not [one for one in found if isinstance(one, Fault)], found
    return [one for one in found if isinstance(one, Item)]


def content_of(item: Item) -> bytes:
    assert callable(item.content)
    return item.content(LIMIT)


# A written address, and the target of the request.
WRITTEN = {
    "/im%2Cage.jpg?s=1%2C2": "/im%2Cage.jpg?s=1%2C2",
    "/im,age.jpg?s=1,2": "/im,age.jpg?s=1,2",
    "/a%2fb%2F%41%7E.jpg": "/a%2fb%2F%41%7E.jpg",
    "/a/../b/./c//d.jpg": "/a/../b/./c//d.jpg",
    "//two.jpg": "//two.jpg",
    "/a::b.jpg": "/a::b.jpg",
    "/a+b%2B&c=d;e.jpg": "/a+b%2B&c=d;e.jpg",
    "/q.jpg?a[]=1&b=x/y?z&c=%20+": "/q.jpg?a[]=1&b=x/y?z&c=%20+",
    "/tilde~(1)!*'$@.jpg": "/tilde~(1)!*'$@.jpg",
    "/two words.jpg": "/two%20words.jpg",
    "/猫 ü.jpg?q=猫": "/%E7%8C%AB%20%C3%BC.jpg?q=%E7%8C%AB",
    "/100%.jpg": "/100%25.jpg",
    "/50%zz%2c.jpg": "/50%25zz%2c.jpg",
    "/a.jpg#part": "/a.jpg",
    "/a%23b.jpg#part": "/a%23b.jpg",
    '/q"<>^`{|}\\.jpg': "/q%22%3C%3E%5E%60%7B%7C%7D%5C.jpg",
    "/b.jpg?X-Amz-Signature=abc%2Fdef%3D": "/b.jpg?X-Amz-Signature=abc%2Fdef%3D",
}


@pytest.mark.parametrize(("written", "asked"), WRITTEN.items(), ids=WRITTEN)
def test_address_is_requested_as_written(server: Scripted, tmp_path: Path, written: str, asked: str) -> None:
    server.answers[asked] = Answer(b"right")
    (tmp_path / "list.txt").write_text(f"{server.address}{written}\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"url": server.address + written}))
    for source in ("list.txt", "rows.jsonl"):
        (item,) = items(tmp_path / source)
        assert item.uri == server.address + written
        assert content_of(item) == b"right"
        with UriReader() as reader:
            assert reader.read(item.uri, LIMIT) == b"right"
    assert set(server.targets) == {asked}


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/to%2Cthere.jpg?s=1%2C2", "/to%2Cthere.jpg?s=1%2C2"),
        ("SERVER/x%2fy//z.jpg", "/x%2fy//z.jpg"),
        ("other%20one.jpg", "/in/other%20one.jpg"),
        ("../up.jpg", "/up.jpg"),
        ("?s=%2C", "/in/from.jpg?s=%2C"),
        ("/two words ü.jpg", "/two%20words%20%C3%BC.jpg"),
        ("/a::b.jpg#part", "/a::b.jpg"),
    ],
)
def test_redirect_is_followed_as_written(server: Scripted, location: str, asked: str) -> None:
    # The server's library encodes headers as Latin-1.
    text = location.replace("SERVER", server.address).encode().decode("latin-1")
    server.answers["/in/from.jpg"] = Answer(status=302, headers={"Location": text})
    server.answers[asked] = Answer(b"right")
    assert read_url(f"{server.address}/in/from.jpg", LIMIT) == b"right"


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest/", "//[fe80::1]/", "http://[::ffff:169.254.169.254]:80/"]
)
def test_redirect_to_a_metadata_service_is_refused(server: Scripted, location: str) -> None:
    server.answers["/a.jpg"] = Answer(status=302, headers={"Location": location})
    with pytest.raises(NotFoundError, match="a cloud metadata service with secrets"):
        read_image(partial(read_url, f"{server.address}/a.jpg"), LIMIT)


def test_endless_redirects_are_refused(server: Scripted) -> None:
    server.answers["/a.jpg"] = Answer(status=301, headers={"Location": "/a.jpg"})
    with pytest.raises(OSError, match="redirects more than 10 times") as caught:
        read_url(f"{server.address}/a.jpg", LIMIT)
    assert is_permanent(caught.value)
    assert len(server.targets) == 11
    server.answers["/b.jpg"] = Answer(b"<p>elsewhere", status=302)
    with pytest.raises(OSError, match="without a new address"):
        read_url(f"{server.address}/b.jpg", LIMIT)


@pytest.mark.parametrize(
    ("base", "link", "found"),
    [
        ("http://h/a/b", "c?d", "http://h/a/c?d"),
        ("http://h//a//b/", "c//d", "http://h//a//b/c//d"),
        ("http://h/a/b", "../../../c", "http://h/c"),
        ("http://h/a/b", "//i/c", "http://i/c"),
        ("http://h", "c", "http://h/c"),
        ("http://h/a/", "./", "http://h/a/"),
        ("http://h/a/b/", "..", "http://h/a/"),
        ("http://h/a/?x", "#top", "http://h/a/#top"),
        ("https://h/a/", "ftp://h/c", "ftp://h/c"),
    ],
)
def test_links_are_joined_like_in_a_browser(base: str, link: str, found: str) -> None:
    assert join(base, link) == found


def test_hosts_are_kept_as_written() -> None:
    assert str(address("HTTP://[::1]:8080/a%2c")) == "http://[::1]:8080/a%2c"
    assert address("http://bücher.example/ü").raw_host == "xn--bcher-kva.example"
    for wrong in ("http://[::1/a.jpg", "http:///a.jpg", "http://h:port/a.jpg"):
        with pytest.raises(NotFoundError):
            read_image(partial(read_url, wrong), 10)


def test_upper_case_schemes_and_ipv6_hosts() -> None:
    with serving("::1") as server:
        server.answers["/a::b.jpg"] = Answer(b"right")
        server.answers["/s.tar"] = Answer(archive({"x.jpg": b"inner"}))
        with UriReader() as reader:
            assert reader.read(f"{server.address}/a::b.jpg".replace("http", "HTTP"), LIMIT) == b"right"
            assert reader.read(f"tar://x.jpg::{server.address}/s.tar", LIMIT) == b"inner"


NAMES = [
    "a#1.jpg",
    "what?.jpg",
    "100%.jpg",
    "a%20b.jpg",
    "a::b.jpg",
    "b+c&d=e.jpg",
    "猫 ü.jpg",
    "x//y.jpg",
    "z;1.jpg",
]
ASKED = {
    "a#1.jpg": "a%231.jpg",
    "what?.jpg": "what%3F.jpg",
    "100%.jpg": "100%25.jpg",
    "a%20b.jpg": "a%2520b.jpg",
    "a::b.jpg": "a::b.jpg",
    "b+c&d=e.jpg": "b+c&d=e.jpg",
    "猫 ü.jpg": "%E7%8C%AB%20%C3%BC.jpg",
    "x//y.jpg": "x//y.jpg",
    "z;1.jpg": "z;1.jpg",
}


def test_relative_paths_below_a_web_root_are_file_names(server: Scripted, tmp_path: Path) -> None:
    for name, target in ASKED.items():
        server.answers[f"/in%2C/{target}"] = Answer(name.encode())
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"path": name}) for name in NAMES))
    found = items(path, root=f"{server.address}/in%2C/")
    assert [item.id for item in found] == NAMES
    assert [content_of(item) for item in found] == [name.encode() for name in NAMES]
    with UriReader() as reader:
        assert [reader.read(item.uri, LIMIT) for item in found] == [name.encode() for name in NAMES]
    found = items(path, root=f"{server.address}/in%2C".replace("//", "//user:secret@"))
    assert [content_of(item) for item in found] == [name.encode() for name in NAMES]
    assert "secret" not in str([(item.uri, item.id) for item in found])
    server.answers["/list.csv?token=a/b"] = Answer(b"path\nin%2C/../in%2C/a#1.jpg\n./b.jpg\n")
    server.answers["/in%252C/a%231.jpg"] = server.answers["/b.jpg"] = Answer(b"right")
    assert [content_of(item) for item in items(f"{server.address}/list.csv?token=a/b", kind="csv")] == [b"right"] * 2


def test_relative_paths_below_a_bucket_are_keys(bucket: Any, tmp_path: Path) -> None:
    keys = [*NAMES, "/lead.jpg", "a/./b.jpg"]
    for key in keys:
        bucket.put_object(Bucket="bucket", Key=f"in/{key}", Body=key.encode())
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"path": name}) for name in NAMES))
    assert [content_of(item) for item in items(path, root="s3://bucket/in")] == [name.encode() for name in NAMES]
    found = items("s3://bucket/in/")
    assert sorted(item.id for item in found) == sorted(keys)
    with UriReader() as reader:
        for item in found:
            assert content_of(item) == reader.read(item.uri, LIMIT) == item.id.encode()
    bucket.put_object(Bucket="bucket", Key="/top.jpg", Body=b"top")
    (item,) = items("s3://bucket//")
    assert (item.id, content_of(item)) == ("top.jpg", b"top")


def test_relative_paths_below_a_local_root(tmp_path: Path) -> None:
    for name in NAMES:
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"path": name}) for name in NAMES))
    found = items(tmp_path / "rows.jsonl", root=str(tmp_path / "in"))
    with UriReader() as reader:
        for name, item in zip(NAMES, found, strict=True):
            assert content_of(item) == reader.read(item.uri, LIMIT) == name.encode()
            for url in (f"file://{item.uri}", f"FILE://{item.uri}", (tmp_path / "in" / name).as_uri()):
                assert reader.read(url, LIMIT) == name.encode()
    begin = f"file://localhost{tmp_path}/in"
    (tmp_path / "urls.txt").write_text(f"{begin}/a#1.jpg\n{begin}/what?.jpg\n")
    assert [content_of(item) for item in items(tmp_path / "urls.txt")] == [b"a#1.jpg", b"what?.jpg"]
    # A name that contains "://" is not a URL.
    odd = tmp_path / "in" / 'see "http:' / "x.jpg"
    odd.parent.mkdir()
    odd.write_bytes(b"odd")
    (tmp_path / "odd.txt").write_text('see "http://x.jpg')
    assert content_of(items(tmp_path / "odd.txt", root=str(tmp_path / "in"))[0]) == b"odd"


PIECES = [
    *" %#?&;+:@!$'()*,=[]{}|\\^`<>\"~.-_",
    "%2C",
    "%2f",
    "%zz",
    "::",
    "://",
    "//",
    "/",
    "ü",
    "猫",
    "e\u0301",
    "a",
    "B",
]


def odd_names(count: int, *, slashes: bool) -> list[str]:
    """Random file names from characters with a meaning in addresses, paths or archives."""
    chance = random.Random(7)
    pieces = [piece for piece in PIECES if slashes or "//" not in piece]
    names: set[str] = set()
    while len(names) < count:
        name = "".join(chance.choices(pieces, k=chance.randint(1, 8)))
        steps = name.split("/")
        if slashes or not {"", ".", "..", " "} & set(steps):
            # A key may have empty segments, but none that a client would resolve.
            names.add(name + "x.jpg" if not {".", ".."} & set(steps) else "x.jpg")
    return sorted(names)


def test_uri_of_any_web_file_name_opens_it(web: str, tmp_path: Path) -> None:
    names = odd_names(25, slashes=False)
    folder = tmp_path / "web" / "in"
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "names.jsonl").write_text("\n".join(json.dumps({"path": name}) for name in names))
    (tmp_path / "web" / "s.tar").write_bytes(archive({name: name.encode() for name in names}))
    (tmp_path / "s.tgz").write_bytes(archive({name: name.encode() for name in names}, "w:gz"))
    sources: list[tuple[str, dict[str, Any]]] = [
        (str(folder), {}),
        (str(tmp_path / "names.jsonl"), {"root": str(folder)}),
        (str(tmp_path / "names.jsonl"), {"root": f"{web}/in"}),
        (f"{web}/in/", {}),
        (f"{web}/s.tar", {}),
        (str(tmp_path / "s.tgz"), {}),
    ]
    for source, options in sources:
        found = {content_of(item).decode(): item for item in items(source, **options)}
        assert sorted(found) == names, (source, options)
        with UriReader() as reader:
            for name, item in found.items():
                assert reader.read(item.uri, LIMIT) == name.encode(), item
        # A file of rejects names the same files.
        lines = [json.dumps({"uri": item.uri, "id": item.id}) for item in found.values()]
        (tmp_path / "rejects.jsonl").write_text("\n".join(lines))
        again = {item.id: content_of(item).decode() for item in items(tmp_path / "rejects.jsonl")}
        assert again == {item.id: name for name, item in found.items()}


def test_uri_of_any_object_key_opens_it(bucket: Any, tmp_path: Path) -> None:
    names = odd_names(60, slashes=True)
    for name in names:
        bucket.put_object(Bucket="bucket", Key=f"in/{name}", Body=name.encode())
    (tmp_path / "names.jsonl").write_text("\n".join(json.dumps({"path": f"./{name}"}) for name in names))
    found = items("s3://bucket/in/")
    assert sorted(content_of(item).decode() for item in found) == names
    with UriReader() as reader:
        assert [reader.read(item.uri, LIMIT) for item in found] == [content_of(item) for item in found]
    # "./" marks a relative path, not an address.
    for item in items(tmp_path / "names.jsonl", root="s3://bucket/in"):
        assert content_of(item).decode() == item.id


# Index pages of common servers, with the expected names.
APACHE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN"><html><head><title>Index of /in</title></head><body>
<table><tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td><a href="/">Parent Directory</a></td></tr>
<tr><td><a href="a&amp;b%20c.jpg">a&amp;b c.jpg</a></td><td>2024-01-01 10:00</td></tr>
<tr><td><A HREF='x%23y.jpg'>x#y.jpg</A></td></tr><tr><td><a class=k href=plain.jpg>plain</a></td></tr>
<tr><td><a href="below/">below/</a></td></tr></table><!-- <a href="hidden.jpg">not there</a> -->
<address>Apache/2.4 Server at 127.0.0.1, see http://other.example/z.jpg</address></body></html>"""
NGINX = """<html><head><title>Index of /in/</title></head><body><h1>Index of /in/</h1><hr><pre><a href="../">../</a>
<a href="below/">below/</a>           01-Jan-2024 10:00       -
<a href="%E7%8C%AB.jpg">猫.jpg</a>                 01-Jan-2024 10:00  100
<a href="a%3Fb.jpg">a?b.jpg</a> <a href="a::b,c.jpg">a::b,c.jpg</a> <a href="a%2Cb%2c.jpg">a,b,.jpg</a>
<a href="https://other.example/in/q.jpg">q</a> <a href="//other.example/in/r.jpg">r</a> <a href="javascript:x.jpg">j</a>
</pre></body></html>"""
ABSOLUTE = """<html><head><base href="SERVER/in/"></head><body><a href="SERVER/in/full.jpg">1</a>
<a href="/in/path.jpg">2</a><a href="./dot.jpg#f">3</a><a href="/in/below/../up.jpg">4</a><a href="/inside.jpg">5</a>
<a href="/in/%2e%2e/e.jpg">6</a>
<a href="raw ü &eacute;.jpg?s=1&amp;t=2">7</a><a href="/i%6E/same.jpg">8</a></body></html>"""


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (APACHE, {"a&b c.jpg", "x#y.jpg", "plain.jpg", "below/e.jpg"}),
        (NGINX, {"猫.jpg", "a?b.jpg", "a::b,c.jpg", "a,b,.jpg", "below/e.jpg"}),
        (ABSOLUTE, {"full.jpg", "path.jpg", "dot.jpg", "up.jpg", "raw ü é.jpg?s=1&t=2", "same.jpg"}),
    ],
    ids=["apache", "nginx", "absolute"],
)
def test_index_pages_of_common_servers_are_listed(server: Scripted, page: str, names: set[str]) -> None:
    html = {"Content-Type": "text/html; charset=utf-8"}
    server.answers["/in/"] = Answer(page.replace("SERVER", server.address).encode(), headers=html)
    server.answers["/in/below/"] = Answer(b'<a href="../">..</a><a href="e.jpg">e</a>', headers=html)
    found = items(f"{server.address}/in/")
    assert {item.id for item in found} == names
    listing = list(server.targets)
    assert set(listing) <= {"/in/", "/in/below/"}
    with UriReader() as reader:
        for item in found:
            del server.targets[:]
            server.answers[str(address(item.uri).raw_path_qs)] = Answer(item.id.encode())
            assert content_of(item) == reader.read(item.uri, LIMIT) == item.id.encode()
            assert len(set(server.targets)) == 1


def test_index_page_with_a_query(server: Scripted) -> None:
    html = {"Content-Type": "text/html"}
    server.answers["/in//?t=%2C"] = Answer(b'<a href="a.jpg">a</a><a href="?t=1">b</a><a href="x/">x</a>', headers=html)
    server.answers["/in//x/"] = Answer(b'<a href="b.jpg">a</a>', headers=html)
    found = items(f"{server.address}/in//?t=%2C#top")
    assert [item.uri for item in found] == [f"{server.address}/in//a.jpg", f"{server.address}/in//x/b.jpg"]


def test_large_index_page_is_refused(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MAX_INDEX_PAGE", 1000)
    page = b'<a href="a.jpg">a</a>'
    for length, reason in ((1000, None), (1001, "FOLDER_UNREADABLE")):
        server.answers["/in/"] = Answer(page.ljust(length), headers={"Content-Type": "text/html"})
        (found,) = opened(f"{server.address}/in/")
        assert (found.reason if isinstance(found, Fault) else None) == reason
    assert isinstance(found, Fault)
    assert "its index page has more than 1000 bytes" in found.message


def test_index_page_after_a_redirect(server: Scripted) -> None:
    html = {"Content-Type": "text/html"}
    server.answers["/in/"] = Answer(status=301, headers={"Location": "/moved%2Cthere/"})
    server.answers["/moved%2Cthere/"] = Answer(
        b'<a href="a.jpg">a</a><a href="/moved%2Cthere/b.jpg">b</a>', headers=html
    )
    server.answers["/in/a.jpg"] = server.answers["/in/b.jpg"] = Answer(b"right")
    found = items(f"{server.address}/in")
    assert [item.uri for item in found] == [f"{server.address}/in/a.jpg", f"{server.address}/in/b.jpg"]
    assert [content_of(item) for item in found] == [b"right", b"right"]


@pytest.mark.parametrize("form", ["a.jpg", "list.csv", "folder/", "s.tar"])
def test_password_of_a_url_is_used_but_never_shown(server: Scripted, tmp_path: Path, form: str, caplog: Any) -> None:
    html = {"Content-Type": "text/html"}
    server.answers |= {
        "/a.jpg": Answer(b"right"),
        "/list.csv": Answer(b"path\na.jpg\n"),
        "/folder/": Answer(b'<a href="a.jpg">a</a><a href="gone/">b</a>', headers=html),
        "/folder/a.jpg": Answer(b"right"),
        "/s.tar": Answer(archive({"a.jpg": b"right"})),
    }
    url = f"{server.address.replace('//', '//user:p%40ss@')}/{form}"
    (tmp_path / "list.txt").write_text(f"{url}\ntar://a.jpg::{url}\n" if form == "s.tar" else f"{url}\n")
    source = open_source(url, SourceOptions())
    found = [*source, *opened(tmp_path / "list.txt")]
    shown = [source.name, repr([(each.uri, each.id) if isinstance(each, Item) else each for each in found])]
    for each in found:
        if isinstance(each, Item) and each.uri.endswith(("a.jpg", "tar")) and not each.uri.endswith("/s.tar"):
            assert content_of(each) == b"right"
    assert {request[2].get("authorization") for request in server.requests} == {"Basic dXNlcjpwQHNz"}
    for wrong in ("gone.jpg", "gone.csv"):
        try:
            list(open_source(url.replace(form, wrong), SourceOptions()))
            read_url(url.replace(form, wrong), LIMIT)
        except (OSError, SourceError) as error:
            shown += [str(error), repr(error)]
    shown.append(caplog.text)
    assert "p%40ss" not in " ".join(shown)
    assert "p@ss" not in " ".join(shown)


def test_password_of_netrc_is_used(server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.answers["/a.jpg"] = Answer(b"right")
    assert read_url(f"{server.address}/a.jpg", LIMIT) == b"right"
    assert server.requests[0][2]["authorization"].startswith("Basic ")


def test_texts_without_password_are_unchanged() -> None:
    for text in ("tar://a:b@c.jpg::/x.tar", "s3://bucket/a:b@c.jpg", "http://h/a:b@c", "/x/a:b@c.jpg"):
        assert without_password(text) == text
    assert without_password("tar://x::https://u:p@h/a?b@c") == "tar://x::https://h/a?b@c"
    assert without_password("failed: sftp://u:p@h/a, https://u:p@h") == "failed: sftp://u@h/a, https://h"


PASSES = {
    "503": Answer(status=503),
    "500 with a page": Answer(b"<h1>Error</h1>", 500, {"Content-Type": "text/html"}),
    "429": Answer(status=429),
    "408": Answer(status=408),
    "short body": Answer(b"x" * 10, announced=1000),
    "no answer": Answer(breaks=True),
    "a part nobody asked for": Answer(b"x", 206, {"Content-Range": "bytes 0-0/5"}),
}
LASTS = {
    "404": Answer(status=404),
    "410": Answer(status=410),
    "401": Answer(status=401),
    "403": Answer(status=403),
    "400": Answer(status=400),
}


@pytest.mark.parametrize("answer", PASSES.values(), ids=PASSES)
@pytest.mark.usefixtures("patient")
def test_transient_answers_are_retried(server: Scripted, answer: Answer) -> None:
    server.answers["/a.jpg"] = answer
    url = f"{server.address}/a.jpg"
    with pytest.raises(UnavailableError) as caught:
        read_image(partial(read_url, url), LIMIT)
    assert caught.value.reason == "UNREADABLE_NOW"
    # A manifest is retried when it is opened and when its rows are read.
    for name in ("/list.csv", "/list.txt", "/rows.jsonl"):
        text = b'{"path": "b.jpg"}\n' if name.endswith("jsonl") else b"path\n" * name.endswith("csv") + b"b.jpg\n"
        server.answers[name] = [answer, Answer(text), answer, Answer(text)]
        # A short answer is the beginning of a longer file.
        if answer.status != 206 and not answer.announced:
            assert [item.id for item in items(server.address + name)] == ["b.jpg"]


@pytest.mark.parametrize("answer", LASTS.values(), ids=LASTS)
@pytest.mark.usefixtures("patient")
def test_permanent_answers_are_not_retried(server: Scripted, answer: Answer) -> None:
    server.answers["/a.jpg"] = server.answers["/list.csv"] = answer
    with pytest.raises(NotFoundError) as caught:
        read_image(partial(read_url, f"{server.address}/a.jpg"), LIMIT)
    assert caught.value.reason == "UNREADABLE"
    assert server.targets == ["/a.jpg"]
    with pytest.raises(SourceError):
        open_source(f"{server.address}/list.csv", SourceOptions())
    assert server.targets == ["/a.jpg", "/list.csv"]


@pytest.mark.parametrize(
    ("retry_after", "date", "seconds"),
    [
        ("7", "", 7),
        (" 0 ", "", 0),
        (formatdate(2_000_000_020, usegmt=True), formatdate(2_000_000_000, usegmt=True), 20),
        (formatdate(1_000_000_000, usegmt=True), "", 0),
        ("soon", "", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(
    server: Scripted, retry_after: str, date: str, seconds: float | None
) -> None:
    headers = {"Retry-After": retry_after} | ({"Date": date} if date else {})
    server.answers["/a.jpg"] = Answer(status=503, headers=headers)
    with pytest.raises(UnavailableError) as caught:
        read_image(partial(read_url, f"{server.address}/a.jpg"), LIMIT)
    assert caught.value.retry_after == seconds


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("knows_ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_broken_archive_download_resumes_without_repeating_images(
    server: Scripted, mode: str, knows_ranges: bool
) -> None:
    members = {f"{number}.jpg": os.urandom(50_000) for number in range(20)}
    content = archive(members, mode)
    whole = Answer(content, headers={"ETag": '"1"'}, knows_ranges=knows_ranges)
    cut = [
        Answer(content[:end], headers={"ETag": '"1"'}, announced=len(content), knows_ranges=False)
        for end in (300_000, 700_000)
    ]
    server.answers["/s.tar"] = [whole, cut[0], Answer(status=503), cut[1], Answer(breaks=True), whole]
    found = items(f"{server.address}/s.tar")
    assert {item.id: content_of(item) for item in found} == {f"s.tar/{name}": each for name, each in members.items()}
    assert len(found) == len(members)
    assert any("range" in headers for _, _, headers in server.requests)


@pytest.mark.usefixtures("patient")
def test_broken_manifest_download_resumes_without_repeating_rows(server: Scripted) -> None:
    rows = [f"{number:06}.jpg" for number in range(40_000)]
    content = ("path\n" + "\n".join(rows) + "\n").encode()
    cut = Answer(content[:150_000], headers={"ETag": '"1"'}, announced=len(content), knows_ranges=False)
    whole = Answer(content, headers={"ETag": '"1"'})
    server.answers["/list.csv"] = [cut, cut, whole]
    assert [item.id for item in items(f"{server.address}/list.csv")] == rows
    server.answers["/list.txt"] = [whole, cut, Answer(content, headers={"ETag": '"2"'})]
    fault = opened(f"{server.address}/list.txt")[-1]
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.may_hide_items) == ("MANIFEST_UNREADABLE", True)
    assert "changed while it was read" in fault.message


def test_http_stream_is_a_python_file(server: Scripted) -> None:
    content = os.urandom(12_000_000)
    for target, answer in {
        "/a.bin": Answer(content),
        "/b.bin": Answer(content, knows_ranges=False),
        "/c.bin": Answer(gzip.compress(content, 1), headers={"Content-Encoding": "gzip"}),
    }.items():
        server.answers[target] = answer
        with io.BufferedReader(open_stream(server.address + target), 2**20) as file:
            assert file.read(3) == content[:3]
            if target == "/c.bin":
                assert not file.seekable()
                assert file.read() == content[3:]
                continue
            assert file.seek(-5, io.SEEK_END) == len(content) - 5
            assert file.read() == content[-5:]
            file.seek(5_000_000)
            assert (file.tell(), file.read(6_000_000)) == (5_000_000, content[5_000_000:11_000_000])
            assert file.seek(0, io.SEEK_END) == len(content)
            assert file.read(1) == b""
    with pytest.raises(FileNotFoundError):
        open_stream(f"{server.address}/gone.bin")
    server.answers["/empty.bin"] = Answer(b"")
    assert open_stream(f"{server.address}/empty.bin").read() == b""


def test_parquet_and_zip_files_of_a_web_server(server: Scripted, tmp_path: Path) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"path": [f"{number}.jpg" for number in range(5)], "n": range(5)}), table)
    server.answers["/list.parquet"] = Answer(table.getvalue())
    assert [item.attributes for item in items(f"{server.address}/list.parquet")] == [{"n": n} for n in range(5)]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in NAMES:
            file.writestr(name, name.encode())
    server.answers["/s.zip"] = Answer(packed.getvalue())
    (tmp_path / "list.txt").write_text("\n".join(f"zip://{name}::{server.address}/s.zip" for name in NAMES))
    assert [content_of(item) for item in items(tmp_path / "list.txt")] == [name.encode() for name in NAMES]


@pytest.mark.usefixtures("patient")
def test_index_page_is_retried(server: Scripted) -> None:
    html = {"Content-Type": "text/html"}
    below = Answer(b'<a href="b.jpg">b</a>', headers=html)
    server.answers["/in/"] = [Answer(status=429), Answer(b'<a href="a.jpg">a</a><a href="x/">x</a>', headers=html)]
    server.answers["/in/x/"] = [Answer(breaks=True), Answer(status=503), below]
    assert [item.id for item in items(f"{server.address}/in/")] == ["a.jpg", "x/b.jpg"]


S3_PAGE = b"""<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
<IsTruncated>%s</IsTruncated>%s<Contents><Key>%s.jpg</Key><Size>5</Size><ETag>"1"</ETag></Contents></ListBucketResult>"""
S3_BUSY = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@pytest.fixture
def s3(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield server
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.mark.usefixtures("patient")
def test_s3_listing_pages_are_retried(s3: Scripted) -> None:
    first = S3_PAGE % (b"true", b"<NextContinuationToken>t</NextContinuationToken>", b"a")
    busy, broken = Answer(S3_BUSY, 503), Answer(b"<html>", 500)
    s3.others = [busy, Answer(first), broken, Answer(breaks=True), Answer(S3_PAGE % (b"false", b"", b"b"))]
    assert [item.id for item in items("s3://b/")] == ["a.jpg", "b.jpg"]
    assert len(s3.targets) == 5


def test_s3_object_is_requested_once_and_reports_retry_after(s3: Scripted) -> None:
    s3.others = [Answer(S3_BUSY, 503, {"Retry-After": "7"}), Answer(b"<html>", 502), Answer(b"right")]
    for seconds in (7, None):
        with pytest.raises(UnavailableError) as caught:
            read_image(partial(read_url, "s3://b/a.jpg"), LIMIT)
        assert caught.value.retry_after == seconds
    assert read_image(partial(read_url, "s3://b/a.jpg"), LIMIT)[0] == b"right"
    assert len(s3.targets) == 3
    s3.others = [Answer(b"<Error><Code>AccessDenied</Code></Error>", 403)]
    with pytest.raises(NotFoundError, match="access is denied"):
        read_image(partial(read_url, "s3://b/a.jpg"), LIMIT)


@pytest.mark.usefixtures("patient")
def test_google_listing_pages_are_retried(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    first, second = (
        Answer(json.dumps({"items": [{"name": f"{name}.jpg", "size": "5"}], "nextPageToken": token}).encode())
        for name, token in (("a", "t"), ("b", ""))
    )
    server.others = [Answer(status=503), first, Answer(breaks=True), Answer(status=429), second]
    assert [item.id for item in items("gs://b/")] == ["a.jpg", "b.jpg"]
    assert len(server.targets) == 5
    server.others = [Answer(status=503), Answer(b"{}", 403), Answer(b"right")]
    with pytest.raises(UnavailableError):
        read_image(partial(read_url, "gs://b/a.jpg"), LIMIT)
    with pytest.raises(NotFoundError, match="access is denied"):
        read_image(partial(read_url, "gs://b/a.jpg"), LIMIT)
    assert read_image(partial(read_url, "gs://b/a.jpg"), LIMIT)[0] == b"right"
    # Reading a file sends one request. The load retries it.
    assert len(server.targets) == 8
    fsspec.get_filesystem_class("gs").clear_instance_cache()


def test_stop_ends_source_retries(server: Scripted) -> None:
    server.answers["/in/"] = Answer(status=503, headers={"Retry-After": "600"})
    retries = SourceRetries(1000)
    token = thread_retries.set(retries)
    try:
        threading.Timer(0.2, retries.stop).start()
        (fault,) = opened(f"{server.address}/in/")
    finally:
        thread_retries.reset(token)
    assert isinstance(fault, Fault)


def test_refused_connection_fails_at_once_when_opening() -> None:
    token = thread_retries.set(SourceRetries(100, is_opening=True))
    try:
        with pytest.raises(SourceError, match="cannot be read"):
            open_source("http://127.0.0.1:1/list.csv", SourceOptions())
        with pytest.raises(SourceError, match="cannot be read"):
            open_source("http://no.such.host.invalid/list.csv", SourceOptions())
    finally:
        thread_retries.reset(token)


def test_retry_after_beyond_the_budget_ends_the_retries() -> None:
    def busy() -> bytes:
        calls.append(0)
        error = OSError(errno.EBUSY, "busy")
        error.retry_after = 100.0  # type: ignore[attr-defined]
        raise error

    calls: list[int] = []
    with pytest.raises(OSError, match="busy"):
        SourceRetries(5).run(busy)
    assert len(calls) == 1
