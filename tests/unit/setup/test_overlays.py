"""Overlays outside this repository, as deploy/README.md describes them: with a remote base, and as a copy."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.checks import consistency
from deploy.checks.manifests import K8S, build, build_with_components, containers, named

README = K8S.parent / "README.md"
REMOTE = "https://git.example.com/imagesearch.git"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a git repository with the manifests, tagged v0.1.0."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(K8S, folder / "deploy" / "k8s")
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "manifests"], ["tag", "v0.1.0"]):
        subprocess.run(["/usr/bin/env", "git", *identity, *command], cwd=folder, check=True)
    return f"file://{folder}"


@pytest.fixture
def remote_overlays(repository: str, tmp_path: Path) -> Path:
    """Write the examples of the README with the address of the repository, and return their parent folder."""
    for name, content in re.findall(r"```yaml\n# (\S+)\n(.*?)```", README.read_text(), flags=re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(content.replace(REMOTE, repository))
    return tmp_path


def test_builds_overlay_with_remote_base(remote_overlays: Path) -> None:
    objects = build(remote_overlays / "shop")
    assert list(consistency.problems(objects)) == []
    deployment = named(objects, "Deployment", "search")
    assert deployment
    assert containers(deployment)[0]["image"] == "registry.shop.example/imagesearch/search:0.1.0"
    settings = [item["data"] for item in objects if item["metadata"]["name"].startswith("search-settings-")]
    assert [data["SEARCH_MILVUS_DATABASE"] for data in settings] == ["shop"]
    assert named(objects, "ScaledObject", "embedder")
    assert not named(objects, "HorizontalPodAutoscaler", "embedder")


def test_builds_ingest_job_with_remote_base(remote_overlays: Path) -> None:
    objects = build(remote_overlays / "shop-ingest")
    assert list(consistency.problems(objects)) == []
    job = named(objects, "Job", "ingest")
    assert job
    assert containers(job)[0]["image"] == "registry.shop.example/imagesearch/client:0.1.0"
    assert containers(job)[0]["args"][1] == "s3://shop-photos/2026"


def test_builds_copy_outside_the_repository(tmp_path: Path) -> None:
    copy = tmp_path / "k8s"
    shutil.copytree(K8S, copy)
    for name in ("overlays/local", "overlays/production", "jobs/ingest"):
        assert build(copy / name) == build(K8S / name)


def test_builds_production_with_all_components() -> None:
    objects = build_with_components(K8S / "overlays" / "production")
    assert {"GRPCRoute", "ScaledObject", "Certificate", "ServiceMonitor"} <= {item["kind"] for item in objects}
