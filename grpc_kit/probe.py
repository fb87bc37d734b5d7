"""Asks a server for its health and ends with 0 where it serves: `python -m grpc_kit.probe HOST:PORT`.

For what watches containers: Docker's HEALTHCHECK, and Kubernetes where the server has TLS, which its own gRPC probes do
not speak.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import grpc

from grpc_kit.credentials import ClientTls, CredentialsError, channel_credentials
from grpc_kit.health import is_serving


def main() -> None:
    """Exits with 0 where the server reports SERVING, and else with 1 and a line that says why."""
    arguments = _parsed()
    try:
        if not _asked(arguments):
            sys.exit(f"{arguments.address}: NOT_SERVING")
    except grpc.RpcError as error:
        sys.exit(f"{arguments.address}: {error.code().name}: {error.details()}")
    except CredentialsError as error:
        sys.exit(str(error))


def _parsed() -> Namespace:
    parser = ArgumentParser("python -m grpc_kit.probe", description="Asks a gRPC server for its health.")
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("--service", default="", help="the name to ask for; by default the server as a whole")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for an answer (default: 5)")
    parser.add_argument("--ca", type=Path, help="the authorities' certificates, PEM; turns TLS on")
    parser.add_argument("--server-name", help="a name in the server's certificate, where ADDRESS is none")
    parser.add_argument(
        "--certificate", type=Path, help="client certificate for servers that require one, PEM; needs --ca"
    )
    parser.add_argument("--key", type=Path, help="that certificate's key, PEM")
    arguments = parser.parse_args()
    if arguments.ca is None:
        for option in ("server_name", "certificate", "key"):
            if getattr(arguments, option) is not None:
                parser.error(f"--{option.replace('_', '-')} needs --ca, which turns TLS on")
    if (arguments.certificate is None) != (arguments.key is None):
        parser.error("--certificate and --key are given together or not at all")
    return arguments


def _asked(arguments: Namespace) -> bool:
    # A proxy from the environment is not for the server in this container.
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if arguments.server_name:
        options.append(("grpc.ssl_target_name_override", arguments.server_name))
    tls = ClientTls(arguments.ca, arguments.certificate, arguments.key) if arguments.ca else None
    credentials = channel_credentials(tls, token="")
    opened = (
        grpc.secure_channel(arguments.address, credentials, options)
        if credentials
        else grpc.insecure_channel(arguments.address, options)
    )
    with opened as channel:
        return is_serving(channel, arguments.timeout, arguments.service)


if __name__ == "__main__":
    main()
