"""deploy/compose.yaml: its configuration, and the profile `lite` in real containers."""

import json
import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.local_stack import free_port, is_healthy
from tests.deploy.containers.conftest import ROOT, Images
from tests.deploy.containers.engine import Engine

DEPLOY = ROOT / "deploy"
OURS = {"embedder", "search", "search-lite", "client"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DRAIN_SECONDS = 20


def run(compose: Path, *arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [compose, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def services(compose: Path, *options: str | Path) -> set[str]:
    return set(run(compose, "--file", DEPLOY / "compose.yaml", *options, "config", "--services").split())


@pytest.fixture(scope="module")
def config(compose: Path) -> dict[str, Any]:
    """Return the configuration of all services, as Compose reads it."""
    everything = ["--profile", "standalone", "--profile", "lite", "--profile", "client"]
    read = run(compose, "--file", DEPLOY / "compose.yaml", *everything, "config", "--format", "json")
    return dict(json.loads(read))


def seconds(duration: str) -> int:
    """Return the seconds of a duration such as 1m0s."""
    return sum(int(number) * {"s": 1, "m": 60}[unit] for number, unit in re.findall(r"(\d+)([sm])", duration))


def test_profiles_start_their_services(compose: Path) -> None:
    standalone = {"embedder", "search", "milvus", "etcd", "minio", "prometheus"}
    assert services(compose) == standalone
    assert services(compose, "--profile", "standalone") == standalone
    assert services(compose, "--profile", "lite") == {"embedder", "search-lite"}


def test_starts_nothing_without_default_profile(compose: Path, tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "compose.yaml", tmp_path)
    command = [str(compose), "--file", str(tmp_path / "compose.yaml"), "up"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "no service selected" in done.stderr


def test_own_services_are_hardened_and_limited(config: dict[str, Any]) -> None:
    for name in OURS:
        service = config["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges"]
        assert service["user"] == "65532:65532"
        assert service["pids_limit"] == 256
        assert service["image"].endswith(f":{VERSION}")
        # A public registry may have another image of this name.
        assert service["pull_policy"] == "never"


def test_all_services_are_limited_and_pinned_and_publish_only_on_loopback(config: dict[str, Any]) -> None:
    for name, service in config["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges" in service["security_opt"], name
        assert int(service["mem_limit"]) > 0, name
        assert float(service["cpus"]) > 0, name
        assert re.search(r":[^:/]*\d+[^:/]*$", service["image"]), name
        assert "container_name" not in service, name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ())), name
        for volume in service.get("volumes", ()):
            assert volume["type"] == "volume" or volume["read_only"], name
        assert name == "client" or seconds(service["stop_grace_period"]) > DRAIN_SECONDS, name
        for other in service.get("depends_on", {}).values():
            assert other["condition"] == "service_healthy", name
    # A published port would prevent a second replica.
    assert "ports" not in config["services"]["embedder"]
    for name in ("milvus", "etcd", "minio"):
        assert list(config["services"][name]["networks"]) == ["milvus"]
    assert config["networks"]["milvus"]["internal"] is True


def test_prometheus_scrapes_both_services() -> None:
    read = yaml.safe_load((DEPLOY / "compose.prometheus.yml").read_text())
    jobs = {job["job_name"]: job["dns_sd_configs"] for job in read["scrape_configs"]}
    assert {name: [(found["names"], found["port"]) for found in lookups] for name, lookups in jobs.items()} == {
        "embedder": [(["embedder"], 9464)],
        "search": [(["search"], 9464)],
    }
    assert list((DEPLOY / "observability" / "rules").glob("*.yml"))


def test_dockerfiles_and_compose_have_the_version_of_the_project() -> None:
    for dockerfile in (DEPLOY / "docker").glob("*.Dockerfile"):
        assert f"ARG VERSION={VERSION}\n" in dockerfile.read_text()
    assert set(re.findall(r"IMAGESEARCH_VERSION:-([^}]*)}", (DEPLOY / "compose.yaml").read_text())) == {VERSION}


def test_lite_profile_becomes_healthy(
    compose: Path, engine: Engine, images: Images, tmp_path: Path, figures: dict[str, str]
) -> None:
    """The override changes only the network, because the engine may have no bridge."""
    embedder, search, *metrics = (f"127.0.0.1:{free_port()}" for _ in range(4))
    override = tmp_path / "host.yaml"
    override.write_text(
        f"""
services:
  embedder:
    network_mode: host
    networks: !reset null
    environment:
      EMBEDDER_LISTEN_ADDRESS: {embedder}
      EMBEDDER_METRICS_ADDRESS: {metrics[0]}
  search-lite:
    network_mode: host
    networks: !reset null
    ports: !reset null
    environment:
      SEARCH_LISTEN_ADDRESS: {search}
      SEARCH_METRICS_ADDRESS: {metrics[1]}
      SEARCH_EMBEDDER_TARGET: dns:///{embedder}
networks:
  default: !reset null
"""
    )
    environment = {
        "IMAGESEARCH_VERSION": images.tag,
        "COMPOSE_PROJECT_NAME": f"imagesearch-{images.tag}",
        **{name: value for name, value in engine.environment.items() if name == "DOCKER_HOST"},
    }
    files = ("--file", DEPLOY / "compose.yaml", "--file", override, "--profile", "lite")
    try:
        begin = time.monotonic()
        run(compose, *files, "up", "--wait", environment=environment)
        figures["compose, lite: up to healthy, s"] = f"{time.monotonic() - begin:.1f}"
        assert is_healthy(embedder)
        assert is_healthy(search)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{run(compose, *files, 'logs', environment=environment)}") from None
    finally:
        run(compose, *files, "down", "--volumes", environment=environment)
