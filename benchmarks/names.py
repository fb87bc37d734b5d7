"""A name server for one name with several addresses, as a headless Service of Kubernetes has it."""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

HEADER = struct.Struct("!6H")
# Of a question for IPv4 addresses in the Internet class, after its name.
A, IN = 1, 1
TTL_SECONDS = 1
# An answer without errors, from a server that knows.
RESPONSE = 0x8580


@contextmanager
def name_server(addresses: Sequence[str]) -> Iterator[str]:
    """Answers every question for an IPv4 address with these, and every other one with nothing; gives HOST:PORT."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.2)
        ended = threading.Event()
        thread = threading.Thread(target=_serve, args=(server, addresses, ended), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


def _serve(server: socket.socket, addresses: Sequence[str], ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            question, asker = server.recvfrom(512)
        except TimeoutError:
            continue
        server.sendto(_answer(question, addresses), asker)


def _answer(question: bytes, addresses: Sequence[str]) -> bytes:
    """RFC 1035, 4.1: the question again, and a record for each address that refers to its name."""
    number = HEADER.unpack_from(question)[0]
    end = question.index(b"\0", HEADER.size) + 1 + 4
    kind = struct.unpack_from("!H", question, end - 4)[0]
    found = addresses if kind == A else ()
    records = b"".join(
        struct.pack("!HHHIH", 0xC000 | HEADER.size, A, IN, TTL_SECONDS, 4) + socket.inet_aton(address)
        for address in found
    )
    return HEADER.pack(number, RESPONSE, 1, len(found), 0, 0) + question[HEADER.size : end] + records
