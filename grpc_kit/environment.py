"""Environment variables of a program: unknown names are refused, and switches are read in one way."""

import ipaddress
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

TRUE, FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})

# What Kubernetes sets in each pod for a Service that has the name of the prefix, or one that begins with it: the end of
# the name, and what the value looks like. The names alone would also fit settings that are spelt wrong, such as
# EMBEDDER_METRICS_PORT.
SERVICE = r"[A-Z0-9_]*[A-Z0-9]"
NUMBERED = r"PORT_\d+_(?:TCP|UDP|SCTP)"
HOST, NUMBER, PROTOCOL = r"(?P<host>[^\[\]]+)", r"\d{1,5}", r"tcp|udp|sctp"
SERVICE_LINKS = tuple(
    (re.compile(f"{SERVICE}_{name}"), re.compile(value))
    for name, value in (
        ("SERVICE_HOST", HOST),
        (f"SERVICE_PORT(?:_{SERVICE})?", NUMBER),
        (f"(?:PORT|{NUMBERED})", rf"(?:{PROTOCOL})://\[?{HOST}\]?:{NUMBER}"),
        (f"{NUMBERED}_PROTO", PROTOCOL),
        (f"{NUMBERED}_PORT", NUMBER),
        (f"{NUMBERED}_ADDR", HOST),
    )
)


def unknown_variables(prefix: str, known: Collection[str], environment: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that begins with `prefix` and is none of `known`, with the nearest of these.

    An empty variable is as good as an unset one. Values are not shown: a name that is spelt wrong may hold a secret.
    """
    unknown = sorted(
        name
        for name, value in environment.items()
        if name.upper().startswith(prefix) and name not in known and value and not is_service_link(name, value)
    )
    return [f"{name}: there is no such setting; the nearest one is {_nearest(name, prefix, known)}" for name in unknown]


def is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes would give a variable this name and this value, because of a Service."""
    found = (values.fullmatch(value) for names, values in SERVICE_LINKS if names.fullmatch(name))
    return any(match is not None and _is_address(match.groupdict().get("host")) for match in found)


def read_switch(text: str) -> bool:
    """Return what a variable that turns something on or off says. Raises ValueError that names the right values."""
    value = text.strip().lower()
    if value not in TRUE | FALSE:
        raise ValueError("should be true or false (yes or no, on or off, 1 or 0)")
    return value in TRUE


def _is_address(host: str | None) -> bool:
    """Return whether a host is an IP address; a value without a host has nothing to look at."""
    try:
        return host is None or bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _nearest(name: str, prefix: str, known: Collection[str]) -> str:
    # Without the prefix, which all of them share.
    tails = [one.removeprefix(prefix) for one in known]
    return prefix + get_close_matches(name.upper().removeprefix(prefix), tails, n=1, cutoff=0.0)[0]
