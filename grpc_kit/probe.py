"""Check the health of a server, and exit with 0 if the server is SERVING: `python -m grpc_kit.probe HOST:PORT`.

Use it for Docker's HEALTHCHECK, and for Kubernetes if the server has TLS: Kubernetes' own gRPC probes do not support
TLS.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import grpc

from grpc_kit.credentials import ClientTls, CredentialsError, channel_credentials
from grpc_kit.health import is_serving


def main() -> None:
    """Exit with 0 if the server reports SERVING; otherwise print the reason and exit with 1."""
    arguments = _parse_arguments()
    try:
        if not _is_serving(arguments):
            sys.exit(f"{arguments.address}: NOT_SERVING")
    except grpc.RpcError as error:
        sys.exit(f"{arguments.address}: {error.code().name}: {error.details()}")
    except CredentialsError as error:
        sys.exit(str(error))


def _parse_arguments() -> Namespace:
    parser = ArgumentParser("python -m grpc_kit.probe", description="Check the health of a gRPC server.")
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("--service", default="", help="name of the service to check (default: the server as a whole)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for an answer (default: 5)")
    parser.add_argument("--ca", type=Path, help="PEM file with the certificates of trusted authorities; turns TLS on")
    parser.add_argument("--server-name", help="name in the server's certificate, if it differs from ADDRESS")
    parser.add_argument(
        "--certificate", type=Path, help="PEM file with a client certificate, for servers that require one; needs --ca"
    )
    parser.add_argument("--key", type=Path, help="PEM file with the key of that certificate")
    arguments = parser.parse_args()
    if arguments.ca is None:
        for option in ("server_name", "certificate", "key"):
            if getattr(arguments, option) is not None:
                parser.error(f"--{option.replace('_', '-')} needs --ca, which turns TLS on")
    if (arguments.certificate is None) != (arguments.key is None):
        parser.error("--certificate and --key must be set together")
    return arguments


def _is_serving(arguments: Namespace) -> bool:
    # The server is in this container: do not use a proxy from the environment.
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
