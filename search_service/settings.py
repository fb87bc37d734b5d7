"""The search service's settings."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from grpc_kit.credentials import ClientTls
from grpc_kit.environment import read_switch
from grpc_kit.server.settings import MAX_STREAMS, MEBIBYTE, ServerSettings

DATABASE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


class SearchSettings(ServerSettings):
    """The search service: keeps vectors in Milvus and finds the images most like a query."""

    model_config = SettingsConfigDict(env_prefix="SEARCH_", env_ignore_empty=True)

    listen_address: str = Field(
        default="127.0.0.1:50052",
        description="Address to serve on, HOST:PORT; port 0 takes a free one. Loopback unless told otherwise, because "
        "a server without TLS should not be reachable by accident.",
    )
    milvus_uri: str = Field(
        default="data/milvus.db",
        description="Where the vectors are. A path that ends in .db is Milvus Lite, embedded in this process, for one "
        "replica and up to some ten thousand images; http://HOST:19530 is a Milvus server or cluster, and "
        "https://HOST:19530 one that uses TLS. Without a port, https means port 443.",
    )
    milvus_token: SecretStr = Field(
        default=SecretStr(""),
        description="USER:PASSWORD or an API key of the Milvus server. Unset: none. deploy/README.md shows how to "
        "make a user that has the needed privileges and no others.",
    )
    milvus_database: str = Field(
        default="",
        description="Database of the Milvus server that holds the collections; it must exist. Unset: the server's "
        "default database. Milvus Lite has no databases.",
    )
    milvus_ca: Path | None = Field(
        default=None,
        description="File of the authorities' certificates, PEM, that the Milvus server's may come from. Unset, with "
        "https: gRPC's list of public ones.",
    )
    milvus_certificate: Path | None = Field(
        default=None,
        description="File of this service's own certificate, PEM, for a Milvus server that asks for one (tlsMode 2). "
        "It needs SEARCH_MILVUS_CA too.",
    )
    milvus_key: Path | None = Field(default=None, description="File of that certificate's private key, PEM.")
    milvus_server_name: str = Field(
        default="",
        description="Name in the Milvus server's certificate. Unset: the host in SEARCH_MILVUS_URI.",
    )
    milvus_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Most seconds for one call to Milvus. Without a limit a frozen Milvus hangs calls.",
    )
    hang_timeout_seconds: float = Field(
        default=300.0,
        gt=0,
        description="Seconds after which a call to Milvus counts as hung. The limit is 10 times "
        "SEARCH_MILVUS_TIMEOUT_SECONDS if that is longer. The limit for the load of a collection is 10 times that of "
        "a call. Calls to a Milvus server always end in time. A call to Milvus Lite, which runs in this process, may "
        "hang. Then the service logs where, reports NOT_SERVING, and fails its liveness probe so that it is "
        "restarted.",
    )
    milvus_threads: int = Field(
        default=8,
        ge=1,
        description="Calls to Milvus at a time: so many that read rows, and so many of all others. Milvus Lite gets "
        "one write at a time whatever this says.",
    )
    embedder_target: str = Field(
        default="127.0.0.1:50051",
        description="The embedder: HOST:PORT, or a gRPC name such as dns:///embedder-headless:50051, whose addresses "
        "are then used in turn.",
    )
    embedder_timeout_seconds: float = Field(
        default=20.0, gt=0, description="Most seconds for the embedding of one query image."
    )
    embedder_tls: bool = Field(
        default=False,
        description="Whether to call the embedder over TLS. SEARCH_EMBEDDER_CA and SEARCH_EMBEDDER_CERTIFICATE also "
        "turn TLS on; the service does not start if this is false beside them.",
    )
    embedder_ca: Path | None = Field(
        default=None,
        description="File of the authorities' certificates, PEM, that the embedder's may come from. Unset, with TLS: "
        "gRPC's list of public ones.",
    )
    embedder_certificate: Path | None = Field(
        default=None, description="File of this service's own certificate, PEM, for an embedder that asks for one."
    )
    embedder_key: Path | None = Field(default=None, description="File of that certificate's private key, PEM.")
    embedder_token: SecretStr = Field(
        default=SecretStr(""), description="Token to show to the embedder; it is sent over TLS only. Unset: none."
    )
    default_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Seconds that a call gets whose caller states no deadline. Streams are not bounded.",
    )
    write_window_images: int = Field(
        default=1000,
        ge=1,
        description="Images of one WriteImages stream under way at a time, and so the most in one write to Milvus; "
        "Milvus is fastest at about 1,000.",
    )
    write_window_bytes: int = Field(
        default=32 * MEBIBYTE,
        ge=1,
        description="Bytes of those images together, which bounds the memory of a stream. Below half of the 64 MiB "
        "that Milvus takes in a call.",
    )
    search_window: int = Field(
        default=256, ge=1, description="Queries of one SearchStream stream that are worked on at a time."
    )
    max_exact_bytes: int = Field(
        default=2 * 1024 * MEBIBYTE,
        ge=1,
        description="Bytes of vectors that one search may read to compare every one, as `exact` asks for: a million "
        "of 512 components. A larger search is refused; two such searches run at a time.",
    )
    search_unread_bytes: int = Field(
        default=4 * MEBIBYTE,
        ge=1,
        description="Bytes of answers of one SearchStream that its caller has not read, above which no further query "
        "of the stream starts.",
    )
    max_streams: int = Field(default=12, ge=1, description=MAX_STREAMS)
    max_bytes_in_flight: int = Field(
        default=48 * MEBIBYTE,
        ge=1,
        description="Most bytes of the messages that all calls and streams hold until their images are embedded or "
        "stored. A stream reads no further message while it waits for room; a unary call waits up to 5 s, and is "
        "refused with RESOURCE_EXHAUSTED then. Messages of streams of up to 64 KiB have a quarter as many to "
        "themselves, and such unary requests do not count.",
    )
    answer_bytes_in_flight: int = Field(
        default=16 * MEBIBYTE,
        ge=1,
        description="Most bytes of the answers that are being made, by an estimate from the answers before. A unary "
        "call waits up to 5 s for room, and is refused with RESOURCE_EXHAUSTED then; a stream waits.",
    )
    embedder_bytes_in_flight: int = Field(
        default=24 * MEBIBYTE,
        ge=1,
        description="Most bytes of the images that are sent to the embedder at a time: of queries, and of images to "
        "write, each. Further ones wait.",
    )
    page_token_key: SecretStr = Field(
        default=SecretStr(""),
        description="Secret that page tokens are signed with; all replicas need the same one. Unset: one that is made "
        "of SEARCH_MILVUS_URI and SEARCH_MILVUS_TOKEN, which replicas share anyway.",
    )

    @field_validator("milvus_uri", "embedder_target")
    @classmethod
    def _without_spaces(cls, address: str) -> str:
        return address.strip()

    @field_validator("embedder_tls", mode="before")
    @classmethod
    def _is_switch(cls, value: object) -> object:
        return read_switch(value) if isinstance(value, str) else value

    def contradictions(self) -> list[str]:
        """Return a line for each contradiction between settings, without secrets."""
        return [*super().contradictions(), *self._milvus_problems(), *self._embedder_problems()]

    def _embedder_problems(self) -> Iterator[str]:
        if (self.embedder_certificate is None) != (self.embedder_key is None):
            yield "SEARCH_EMBEDDER_CERTIFICATE and SEARCH_EMBEDDER_KEY are set together or not at all"
        if self.embedder_client_tls is None and self.embedder_token.get_secret_value():
            yield ("SEARCH_EMBEDDER_TOKEN is sent over TLS only: set SEARCH_EMBEDDER_TLS=true, or SEARCH_EMBEDDER_CA")
        if self.embedder_client_tls is not None and not self.embedder_tls and "embedder_tls" in self.model_fields_set:
            yield (
                "SEARCH_EMBEDDER_TLS turns off TLS, and SEARCH_EMBEDDER_CA, SEARCH_EMBEDDER_CERTIFICATE and "
                "SEARCH_EMBEDDER_KEY are for TLS: set it to true, or unset these"
            )

    def _milvus_problems(self) -> Iterator[str]:
        uri, database = self.milvus_uri, self.milvus_database
        try:
            has_user = "@" in urlsplit(uri).netloc
        except ValueError as error:
            yield f"SEARCH_MILVUS_URI is no address, {error}: set it to http://HOST:19530 or https://HOST:19530"
            return
        if has_user:
            # The other texts show the address.
            yield (
                "SEARCH_MILVUS_URI has a user or a password, which logs would show: set SEARCH_MILVUS_TOKEN to "
                "USER:PASSWORD"
            )
            return
        if uri.endswith(".db"):
            given = {"TOKEN": self.milvus_token.get_secret_value(), f"DATABASE={database}": database}
            for name in (name for name, value in given.items() if value):
                yield (
                    f"SEARCH_MILVUS_{name} needs a Milvus server, and SEARCH_MILVUS_URI={uri} is Milvus Lite, which "
                    "has no users and no databases: unset it, or set SEARCH_MILVUS_URI to http://HOST:19530"
                )
        elif database and not DATABASE_NAME.fullmatch(database):
            yield (
                f"SEARCH_MILVUS_DATABASE={database} is no name of a Milvus database: use up to 255 letters, digits and "
                "underscores, with no digit first"
            )
        for_tls = ("milvus_ca", "milvus_certificate", "milvus_key", "milvus_server_name")
        unused = [f"SEARCH_{name.upper()}" for name in for_tls if getattr(self, name)]
        if unused and not uri.startswith("https://"):
            yield (
                f"{' and '.join(unused)} need TLS, and SEARCH_MILVUS_URI={uri} does not use it: set SEARCH_MILVUS_URI "
                "to https://HOST:19530"
            )
        if (self.milvus_certificate is None) != (self.milvus_key is None):
            yield "SEARCH_MILVUS_CERTIFICATE and SEARCH_MILVUS_KEY are set together or not at all"
        elif self.milvus_certificate is not None and self.milvus_ca is None:
            yield (
                "SEARCH_MILVUS_CERTIFICATE needs SEARCH_MILVUS_CA: set it to the file of the authority that signed "
                "Milvus' certificate, such as /etc/ssl/certs/ca-certificates.crt for public ones"
            )

    @property
    def milvus_client_tls(self) -> ClientTls | None:
        """What TLS to Milvus needs; None takes gRPC's list of public authorities, or plain text without https."""
        if self.milvus_ca is None:
            return None
        return ClientTls(self.milvus_ca, self.milvus_certificate, self.milvus_key)

    @property
    def page_token_secret(self) -> bytes:
        """The key for page tokens."""
        own = self.page_token_key.get_secret_value()
        return (own or f"{self.milvus_uri} {self.milvus_token.get_secret_value()}").encode()

    @property
    def embedder_client_tls(self) -> ClientTls | None:
        """How the embedder is called over TLS; None is plain text."""
        if not (self.embedder_tls or self.embedder_ca or self.embedder_certificate or self.embedder_key):
            return None
        return ClientTls(self.embedder_ca, self.embedder_certificate, self.embedder_key)
