"""A DNS server for one name with several addresses that can change, like a headless Kubernetes Service."""

import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

HEADER = struct.Struct("!6H")
# Type and class of a question for IPv4 addresses.
A, IN = 1, 1
# CoreDNS' default TTL of a headless Service.
TTL_SECONDS = 5
# Flags of authoritative answers: without an error, and for a name that does not exist.
RESPONSE, NO_SUCH_NAME = 0x8580, 0x8583
POLL_SECONDS = 0.2


class NameServer:
    """Answers questions for IPv4 addresses with its addresses, and all other questions with no record.

    It has a cache like CoreDNS: an answer is repeated for its TTL, even if the addresses change.
    """

    def __init__(self, addresses: Sequence[str], ttl: int) -> None:
        """Create a server that listens at `address`. With a `ttl` of 0 seconds changes are visible immediately."""
        self._ttl = ttl
        self._lock = threading.Lock()
        self._addresses = tuple(addresses)
        self._cached = self._addresses
        self._valid_until = 0.0
        self._questions = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(POLL_SECONDS)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the current addresses. Clients may still get cached ones."""
        with self._lock:
            return self._addresses

    @property
    def questions(self) -> int:
        """Return the number of questions for addresses."""
        with self._lock:
            return self._questions

    def target(self, name: str, port: int) -> str:
        """Return the gRPC target that queries this server; needs GRPC_DNS_RESOLVER=ares."""
        return f"dns://{self.address}/{name}:{port}"

    def add(self, address: str) -> None:
        """Add an address to the name."""
        with self._lock:
            self._addresses = (*self._addresses, address)

    def remove(self, address: str) -> None:
        """Remove an address from the name."""
        with self._lock:
            self._addresses = tuple(known for known in self._addresses if known != address)

    def serve(self, ended: threading.Event) -> None:
        """Answer questions until `ended` is set."""
        with self._socket:
            while not ended.is_set():
                try:
                    question, asker = self._socket.recvfrom(512)
                except TimeoutError:
                    continue
                self._socket.sendto(self._answer(question), asker)

    def _answer(self, question: bytes) -> bytes:
        """Return the question and a record for each address (RFC 1035, 4.1)."""
        number = HEADER.unpack_from(question)[0]
        end = question.index(b"\0", HEADER.size) + 1 + 4
        kind = struct.unpack_from("!H", question, end - 4)[0]
        found, ttl = self._lookup() if kind == A else ((), 0)
        records = b"".join(
            struct.pack("!HHHIH", 0xC000 | HEADER.size, A, IN, ttl, 4) + socket.inet_aton(address) for address in found
        )
        # A headless Service without a ready pod has no name.
        flags = NO_SUCH_NAME if kind == A and not found else RESPONSE
        return HEADER.pack(number, flags, 1, len(found), 0, 0) + question[HEADER.size : end] + records

    def _lookup(self) -> tuple[tuple[str, ...], int]:
        """Return the addresses and their remaining TTL in seconds."""
        now = time.monotonic()
        with self._lock:
            self._questions += 1
            if now >= self._valid_until:
                self._cached, self._valid_until = self._addresses, now + self._ttl
            return self._cached, round(self._valid_until - now)


@contextmanager
def name_server(addresses: Sequence[str], ttl: int = TTL_SECONDS) -> Iterator[NameServer]:
    """Run a name server in a thread."""
    server = NameServer(addresses, ttl)
    ended = threading.Event()
    thread = threading.Thread(target=server.serve, args=(ended,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        ended.set()
        thread.join()
