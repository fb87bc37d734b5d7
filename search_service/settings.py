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
    """The search service: keeps vectors in Milvus and finds the images most similar to a query."""

    model_config = SettingsConfigDict(env_prefix="SEARCH_", env_ignore_empty=True)

    listen_address: str = Field(
        default="127.0.0.1:50052",
        description="Address to serve on, HOST:PORT. Port 0 chooses a free port. The default is loopback, so that a "
        "server without TLS is not reachable by accident.",
    )
    milvus_uri: str = Field(
        default="data/milvus.db",
        description="Where the vectors are stored. A path that ends in .db uses Milvus Lite in this process, for one "
        "replica and up to some ten thousand images. http://HOST:19530 is a Milvus server or cluster; "
        "https://HOST:19530 uses TLS. Without a port, https uses port 443.",
    )
    milvus_token: SecretStr = Field(
        default=SecretStr(""),
        description="USER:PASSWORD or an API key for the Milvus server. Unset: none. deploy/README.md shows how to "
        "create a user with only the necessary privileges.",
    )
    milvus_database: str = Field(
        default="",
        description="Database of the Milvus server for the collections. It must exist. Unset: the default database of "
        "the server. Milvus Lite has no databases.",
    )
    milvus_ca: Path | None = Field(
        default=None,
        description="PEM file with the certificates of the authorities that may have signed the certificate of the "
        "Milvus server. Unset, with https: gRPC's list of public authorities.",
    )
    milvus_certificate: Path | None = Field(
        default=None,
        description="PEM file with the client certificate of this service, for a Milvus server that requires one "
        "(tlsMode 2). Set SEARCH_MILVUS_CA as well.",
    )
    milvus_key: Path | None = Field(default=None, description="PEM file with the private key of that certificate.")
    milvus_server_name: str = Field(
        default="",
        description="Name in the certificate of the Milvus server. Unset: the host in SEARCH_MILVUS_URI.",
    )
    milvus_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Maximum seconds for one call to Milvus. Without a limit, calls to a frozen Milvus would hang.",
    )
    hang_timeout_seconds: float = Field(
        default=300.0,
        gt=0,
        description="Seconds after which a call to Milvus counts as hung, at least 10 times "
        "SEARCH_MILVUS_TIMEOUT_SECONDS. For the load of a collection, the limit is 10 times as long. Calls to a Milvus "
        "server always end in time. A call to Milvus Lite, which runs in this process, may hang. Then the service logs "
        "where it hangs, reports NOT_SERVING, and fails its liveness probe, so that it is restarted.",
    )
    milvus_threads: int = Field(
        default=8,
        ge=1,
        description="Maximum number of calls to Milvus in flight: this many that read rows, and this many others. "
        "Milvus Lite always gets one write at a time.",
    )
    embedder_target: str = Field(
        default="127.0.0.1:50051",
        description="Address of the embedder: HOST:PORT, or a gRPC name such as dns:///embedder-headless:50051. The "
        "service balances calls over all addresses of a name.",
    )
    embedder_timeout_seconds: float = Field(
        default=20.0, gt=0, description="Maximum seconds for the embedding of one query image."
    )
    embedder_tls: bool = Field(
        default=False,
        description="Whether to call the embedder over TLS. SEARCH_EMBEDDER_CA and SEARCH_EMBEDDER_CERTIFICATE also "
        "turn TLS on. The service does not start if one of them is set and this is false.",
    )
    embedder_ca: Path | None = Field(
        default=None,
        description="PEM file with the certificates of the authorities that may have signed the certificate of the "
        "embedder. Unset, with TLS: gRPC's list of public authorities.",
    )
    embedder_certificate: Path | None = Field(
        default=None,
        description="PEM file with the client certificate of this service, for an embedder that requires one.",
    )
    embedder_key: Path | None = Field(default=None, description="PEM file with the private key of that certificate.")
    embedder_token: SecretStr = Field(
        default=SecretStr(""), description="Token for the embedder. It is sent only over TLS. Unset: none."
    )
    default_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Deadline in seconds of a call whose client sets none. Streams have no default deadline.",
    )
    write_window_images: int = Field(
        default=1000,
        ge=1,
        description="Maximum number of images of one WriteImages stream in flight, and so in one write to Milvus. "
        "Milvus is fastest with about 1,000.",
    )
    write_window_bytes: int = Field(
        default=32 * MEBIBYTE,
        ge=1,
        description="Maximum bytes of those images together, which limits the memory of a stream. Less than half of "
        "the 64 MiB that Milvus accepts in a call.",
    )
    search_window: int = Field(
        default=256, ge=1, description="Maximum number of queries of one SearchStream stream in flight."
    )
    max_exact_bytes: int = Field(
        default=2 * 1024 * MEBIBYTE,
        ge=1,
        description="Maximum bytes of vectors that one exact search reads. The default is a million vectors with 512 "
        "components. A larger search is refused. Two exact searches run at a time.",
    )
    sweep_seconds: float = Field(
        default=6 * 3600.0,
        ge=0,
        description="Seconds between two sweeps, each of which deletes the regions that no image has. The first one "
        "begins at the start of the service. 0: no sweep; set this while collections are restored from a backup.",
    )
    orphan_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="Age in seconds from which a sweep deletes regions without an image. A write that takes more than "
        "half as long is refused. All replicas need the same value, and clocks that agree within a tenth of it.",
    )
    search_unread_bytes: int = Field(
        default=4 * MEBIBYTE,
        ge=1,
        description="Bytes of unread responses of one SearchStream stream. While there are more, no further query of "
        "the stream starts.",
    )
    max_streams: int = Field(default=12, ge=1, description=MAX_STREAMS)
    max_bytes_in_flight: int = Field(
        default=48 * MEBIBYTE,
        ge=1,
        description="Maximum bytes of the messages that all calls and streams hold until their images are embedded or "
        "stored. A stream reads no further message while it waits for room. A unary call waits up to 5 s; then it is "
        "refused with RESOURCE_EXHAUSTED. Messages of streams of up to 64 KiB have a separate budget, a quarter as "
        "large. Unary requests of up to 64 KiB do not count.",
    )
    answer_bytes_in_flight: int = Field(
        default=16 * MEBIBYTE,
        ge=1,
        description="Maximum bytes of the responses in preparation, estimated from earlier responses. A unary call "
        "waits up to 5 s for room; then it is refused with RESOURCE_EXHAUSTED. A stream waits.",
    )
    embedder_bytes_in_flight: int = Field(
        default=24 * MEBIBYTE,
        ge=1,
        description="Maximum bytes of the query images that are being sent to the embedder, and separately of the "
        "images to write. Further images wait.",
    )
    page_token_key: SecretStr = Field(
        default=SecretStr(""),
        description="Secret that signs page tokens. All replicas need the same one. Unset: a secret from "
        "SEARCH_MILVUS_URI and SEARCH_MILVUS_TOKEN, which all replicas share.",
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
            yield "SEARCH_EMBEDDER_CERTIFICATE and SEARCH_EMBEDDER_KEY must be set together, or neither"
        if self.embedder_client_tls is None and self.embedder_token.get_secret_value():
            yield "SEARCH_EMBEDDER_TOKEN is sent only over TLS: set SEARCH_EMBEDDER_TLS=true, or SEARCH_EMBEDDER_CA"
        if self.embedder_client_tls is not None and not self.embedder_tls and "embedder_tls" in self.model_fields_set:
            yield (
                "SEARCH_EMBEDDER_TLS turns TLS off, and SEARCH_EMBEDDER_CA, SEARCH_EMBEDDER_CERTIFICATE and "
                "SEARCH_EMBEDDER_KEY need TLS: set it to true, or unset the others"
            )

    def _milvus_problems(self) -> Iterator[str]:
        uri, database = self.milvus_uri, self.milvus_database
        try:
            has_user = "@" in urlsplit(uri).netloc
        except ValueError as error:
            yield f"SEARCH_MILVUS_URI is not an address ({error}): set it to http://HOST:19530 or https://HOST:19530"
            return
        if has_user:
            # The other messages show the address.
            yield (
                "SEARCH_MILVUS_URI has a user or a password, which logs would show: set SEARCH_MILVUS_TOKEN to "
                "USER:PASSWORD instead"
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
                f"SEARCH_MILVUS_DATABASE={database} is not a valid name of a Milvus database: use up to 255 letters, "
                "digits and underscores; the first must not be a digit"
            )
        for_tls = ("milvus_ca", "milvus_certificate", "milvus_key", "milvus_server_name")
        unused = [f"SEARCH_{name.upper()}" for name in for_tls if getattr(self, name)]
        if unused and not uri.startswith("https://"):
            yield (
                f"{' and '.join(unused)} need TLS, and SEARCH_MILVUS_URI={uri} does not use it: set SEARCH_MILVUS_URI "
                "to https://HOST:19530"
            )
        if (self.milvus_certificate is None) != (self.milvus_key is None):
            yield "SEARCH_MILVUS_CERTIFICATE and SEARCH_MILVUS_KEY must be set together, or neither"
        elif self.milvus_certificate is not None and self.milvus_ca is None:
            yield (
                "SEARCH_MILVUS_CERTIFICATE needs SEARCH_MILVUS_CA: set that to the file of the authority that signed "
                "Milvus' certificate, such as /etc/ssl/certs/ca-certificates.crt for public authorities"
            )

    @property
    def milvus_client_tls(self) -> ClientTls | None:
        """Return the TLS files for Milvus; None for gRPC's public authorities, or for plain text without https."""
        if self.milvus_ca is None:
            return None
        return ClientTls(self.milvus_ca, self.milvus_certificate, self.milvus_key)

    @property
    def page_token_secret(self) -> bytes:
        """Return the key that signs page tokens."""
        own = self.page_token_key.get_secret_value()
        return (own or f"{self.milvus_uri} {self.milvus_token.get_secret_value()}").encode()

    @property
    def embedder_client_tls(self) -> ClientTls | None:
        """Return the TLS files for the embedder; None for plain text."""
        if not (self.embedder_tls or self.embedder_ca or self.embedder_certificate or self.embedder_key):
            return None
        return ClientTls(self.embedder_ca, self.embedder_certificate, self.embedder_key)
