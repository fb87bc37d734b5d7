"""Checks a program's environment variables for unknown names, and reads switches."""

import ipaddress
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

TRUE, FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})

# Kubernetes sets variables in each pod for every Service. They may begin with the prefix of the settings. These are
# patterns of their names and values. Names alone would match misspelt settings, such as EMBEDDER_METRICS_PORT.
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
    """Return a line for each variable that begins with `prefix` and is not in `known`, with the nearest known name.

    An empty variable counts as unset. The lines show no values, because a misspelt variable may contain a secret.
    """
    unknown = sorted(
        name
        for name, value in environment.items()
        if name.upper().startswith(prefix) and name not in known and value and not is_service_link(name, value)
    )
    return [f"{name}: this setting does not exist; did you mean {_nearest(name, prefix, known)}?" for name in unknown]


def is_service_link(name: str, value: str) -> bool:
    """Return whether a variable has a name and a value that Kubernetes sets for a Service."""
    found = (values.fullmatch(value) for names, values in SERVICE_LINKS if names.fullmatch(name))
    return any(match is not None and _is_address(match.groupdict().get("host")) for match in found)


def read_switch(text: str) -> bool:
    """Return the value of a switch. Raises ValueError that names the allowed values."""
    value = text.strip().lower()
    if value not in TRUE | FALSE:
        raise ValueError("should be true or false (yes or no, on or off, 1 or 0)")
    return value in TRUE


def _is_address(host: str | None) -> bool:
    """Return whether a host is an IP address; True for a value without a host."""
    try:
        return host is None or bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _nearest(name: str, prefix: str, known: Collection[str]) -> str:
    # Compare without the prefix, which all names share.
    tails = [one.removeprefix(prefix) for one in known]
    return prefix + get_close_matches(name.upper().removeprefix(prefix), tails, n=1, cutoff=0.0)[0]
