"""A name server for one name with several addresses that may change, as a headless Service of Kubernetes has it."""

import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

HEADER = struct.Struct("!6H")
# Of a question for IPv4 addresses in the Internet class, after its name.
A, IN = 1, 1
# What CoreDNS says of a headless Service where nobody tells it otherwise.
TTL_SECONDS = 5
# An answer without errors, and that there is no such name; both from a server that knows.
RESPONSE, NO_SUCH_NAME = 0x8580, 0x8583
LOOK_SECONDS = 0.2


class NameServer:
    """Answers every question for an IPv4 address with those that it has, and every other one with nothing.

    It has a cache as CoreDNS has: for as long as an answer lives it is given again, whatever has changed meanwhile.
    """

    def __init__(self, addresses: Sequence[str], ttl: int) -> None:
        """Asked at `address` it gives `addresses`, each answer for `ttl` seconds; with 0 every change shows at once."""
        self._ttl = ttl
        self._lock = threading.Lock()
        self._addresses = tuple(addresses)
        self._cached = self._addresses
        self._valid_until = 0.0
        self._questions = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(LOOK_SECONDS)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those that the name has now; who asks may still be told earlier ones."""
        with self._lock:
            return self._addresses

    @property
    def questions(self) -> int:
        """How often it was asked for addresses."""
        with self._lock:
            return self._questions

    def target(self, name: str, port: int) -> str:
        """What gRPC is given, with GRPC_DNS_RESOLVER=ares in its environment, to ask this server."""
        return f"dns://{self.address}/{name}:{port}"

    def add(self, address: str) -> None:
        """The name has one more address."""
        with self._lock:
            self._addresses = (*self._addresses, address)

    def remove(self, address: str) -> None:
        """The name has one address less."""
        with self._lock:
            self._addresses = tuple(known for known in self._addresses if known != address)

    def serve(self, ended: threading.Event) -> None:
        """Answers until `ended`."""
        with self._socket:
            while not ended.is_set():
                try:
                    question, asker = self._socket.recvfrom(512)
                except TimeoutError:
                    continue
                self._socket.sendto(self._answer(question), asker)

    def _answer(self, question: bytes) -> bytes:
        """RFC 1035, 4.1: the question again, and a record for each address that refers to its name."""
        number = HEADER.unpack_from(question)[0]
        end = question.index(b"\0", HEADER.size) + 1 + 4
        kind = struct.unpack_from("!H", question, end - 4)[0]
        found, ttl = self._look() if kind == A else ((), 0)
        records = b"".join(
            struct.pack("!HHHIH", 0xC000 | HEADER.size, A, IN, ttl, 4) + socket.inet_aton(address) for address in found
        )
        # A headless Service of which no pod is ready has no name.
        flags = NO_SUCH_NAME if kind == A and not found else RESPONSE
        return HEADER.pack(number, flags, 1, len(found), 0, 0) + question[HEADER.size : end] + records

    def _look(self) -> tuple[tuple[str, ...], int]:
        """The addresses, and the seconds for which they may be remembered."""
        now = time.monotonic()
        with self._lock:
            self._questions += 1
            if now >= self._valid_until:
                self._cached, self._valid_until = self._addresses, now + self._ttl
            return self._cached, round(self._valid_until - now)


@contextmanager
def name_server(addresses: Sequence[str], ttl: int = TTL_SECONDS) -> Iterator[NameServer]:
    """A name server, on a thread of its own."""
    server = NameServer(addresses, ttl)
    ended = threading.Event()
    thread = threading.Thread(target=server.serve, args=(ended,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        ended.set()
        thread.join()
