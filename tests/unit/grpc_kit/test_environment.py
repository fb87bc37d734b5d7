"""Unknown variables are reported with the nearest known name; variables of Kubernetes Services are ignored."""

import pytest

from grpc_kit.environment import is_service_link, read_switch, unknown_variables

KNOWN = {"EMBEDDER_PRECISION", "EMBEDDER_MODELS", "EMBEDDER_METRICS_ADDRESS", "EMBEDDER_TLS_KEY", "EMBEDDER_TOKENS"}


def unknown(**variables: str) -> list[str]:
    return unknown_variables("EMBEDDER_", KNOWN, variables)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("EMBEDDER_PRECISON", "EMBEDDER_PRECISION"),
        ("EMBEDDER_MODEL", "EMBEDDER_MODELS"),
        ("EMBEDDER_TOKEN", "EMBEDDER_TOKENS"),
        ("EMBEDDER_TLSKEY", "EMBEDDER_TLS_KEY"),
        ("embedder_precison", "EMBEDDER_PRECISION"),
        ("EMBEDDER__PRECISION", "EMBEDDER_PRECISION"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_known_one_and_without_its_value(name: str, nearest: str) -> None:
    assert unknown(**{name: "hunter2"}) == [f"{name}: this setting does not exist; did you mean {nearest}?"]


def test_all_unknown_variables_are_named_and_no_others() -> None:
    found = unknown(
        EMBEDDER_Z="1", EMBEDDER_A="1", EMBEDDER_MODELS="vgg16", EMBEDDER="x", MY_EMBEDDER_X="x", EMBEDDER_EMPTY=""
    )
    assert [line.partition(":")[0] for line in found] == ["EMBEDDER_A", "EMBEDDER_Z"]
    # There is always a nearest name.
    assert unknown(EMBEDDER_="?")[0].startswith("EMBEDDER_: this setting does not exist; did you mean EMBEDDER_")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDER_SERVICE_HOST", "10.96.0.12"),
        ("EMBEDDER_SERVICE_HOST", "fd00:10:96::c"),
        ("EMBEDDER_SERVICE_PORT", "50051"),
        ("EMBEDDER_SERVICE_PORT_GRPC", "50051"),
        ("EMBEDDER_SERVICE_PORT_HTTP_METRICS", "9464"),
        ("EMBEDDER_PORT", "tcp://10.96.0.12:50051"),
        ("EMBEDDER_PORT", "tcp://[fd00:10:96::c]:50051"),
        ("EMBEDDER_PORT_50051_TCP", "tcp://10.96.0.12:50051"),
        ("EMBEDDER_PORT_50051_TCP_PROTO", "tcp"),
        ("EMBEDDER_PORT_50051_TCP_PORT", "50051"),
        ("EMBEDDER_PORT_50051_TCP_ADDR", "10.96.0.12"),
        ("EMBEDDER_PORT_53_UDP", "udp://10.96.0.12:53"),
        ("EMBEDDER_PORT_53_UDP_PROTO", "udp"),
        ("EMBEDDER_PORT_53_SCTP_ADDR", "10.96.0.12"),
        ("EMBEDDER_HEADLESS_SERVICE_HOST", "10.96.0.13"),
        ("EMBEDDER_METRICS_PORT", "tcp://10.96.0.13:9464"),
        ("EMBEDDER_BLUE_2_PORT_9464_TCP_ADDR", "10.96.0.13"),
    ],
)
def test_variables_that_kubernetes_sets_for_a_service_are_ignored(name: str, value: str) -> None:
    assert is_service_link(name, value)
    assert unknown(**{name: value}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDER_SERVICE_HOSTS", "10.96.0.12"),
        ("EMBEDDER_SERVICE_HOST", "embedder.example.com"),
        ("EMBEDDER_SERVICE_HOST_GRPC", "10.96.0.12"),
        ("EMBEDDER_SERVICE_PORTS", "50051"),
        ("EMBEDDER_SERVICE_PORT_", "50051"),
        ("EMBEDDER_SERVICE_PORT_GRPC", "fifty"),
        ("EMBEDDER_SERVICE_ADDRESS", "10.96.0.12"),
        ("EMBEDDER_PORT", "50051"),
        ("EMBEDDER_METRICS_PORT", "9464"),
        ("EMBEDDER_PORT", "http://10.96.0.12:50051"),
        ("EMBEDDER_PORT", "tcp://embedder:50051"),
        ("EMBEDDER_PORT_GRPC_TCP", "tcp://10.96.0.12:50051"),
        ("EMBEDDER_PORT_50051", "tcp://10.96.0.12:50051"),
        ("EMBEDDER_PORT_50051_TCP_HOST", "10.96.0.12"),
        ("EMBEDDER_PORT_50051_TCP_PROTO", "grpc"),
        ("EMBEDDER_PORT_50051_TCP_PORT_2", "50051"),
        ("embedder_service_host", "10.96.0.12"),
    ],
)
def test_variables_that_kubernetes_would_not_set_are_unknown(name: str, value: str) -> None:
    assert [line.partition(":")[0] for line in unknown(**{name: value})] == [name]


@pytest.mark.parametrize("text", ["true", "True", "YES", "on", "1", " on "])
def test_a_switch_is_on(text: str) -> None:
    assert read_switch(text)


@pytest.mark.parametrize("text", ["false", "No", "OFF", "0"])
def test_a_switch_is_off(text: str) -> None:
    assert not read_switch(text)


@pytest.mark.parametrize("text", ["", "maybe", "2", "enabled", "tru"])
def test_an_invalid_switch_is_refused_with_the_allowed_values(text: str) -> None:
    with pytest.raises(ValueError, match=r"true or false \(yes or no, on or off, 1 or 0\)"):
        read_switch(text)
