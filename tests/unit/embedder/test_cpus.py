"""The number of processors, with fake folders of /proc and /sys."""

import os
from pathlib import Path

import pytest

from embedder_service.adapters import cpus

PROCESSORS = 8


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight processors, whichever this one is."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(PROCESSORS)), raising=False)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "5:memory:/a/b\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a/b\n"}
GROUP = "sys/fs/cgroup/a/b"
V1_GROUP = "sys/fs/cgroup/cpu,cpuacct/a/b"


@pytest.mark.parametrize(
    ("limit", "processors"),
    [
        ("max 100000\n", 8),
        ("100000 100000\n", 1),
        ("150000 100000\n", 2),
        ("200000 100000\n", 2),
        ("200001 100000\n", 3),
        ("50000 100000\n", 1),
        ("1000 100000\n", 1),
        ("50000 25000\n", 2),
        ("1600000 100000\n", 8),
    ],
)
def test_a_quota_of_cgroup_v2_counts_rounded_up(tmp_path: Path, limit: str, processors: int) -> None:
    write(tmp_path, {**V2, f"{GROUP}/cpu.max": limit})
    assert cpus.available(tmp_path) == processors


@pytest.mark.parametrize("holder", ["sys/fs/cgroup", "sys/fs/cgroup/a", "sys/fs/cgroup/a/b"])
def test_the_quota_of_a_parent_group_counts(tmp_path: Path, holder: str) -> None:
    files = {f"sys/fs/cgroup/{group}cpu.max": "max 100000" for group in ("a/", "a/b/")}
    write(tmp_path, {**V2, **files, f"{holder}/cpu.max": "300000 100000"})
    assert cpus.available(tmp_path) == 3


def test_the_lowest_quota_counts(tmp_path: Path) -> None:
    limits = {"sys/fs/cgroup/a/cpu.max": "200000 100000", f"{GROUP}/cpu.max": "600000 100000"}
    write(tmp_path, {**V2, **limits})
    assert cpus.available(tmp_path) == 2


def test_the_quota_of_another_group_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, {**V2, "sys/fs/cgroup/a/c/cpu.max": "100000 100000", f"{GROUP}/d/cpu.max": "100000 100000"})
    assert cpus.available(tmp_path) == PROCESSORS


@pytest.mark.parametrize("group", ["/", "/docker/0123456789ab", "/../../kubepods/pod1"])
@pytest.mark.parametrize("version", [1, 2])
def test_the_quota_counts_if_a_container_has_its_group_as_the_root(tmp_path: Path, group: str, version: int) -> None:
    if version == 2:
        write(tmp_path, {"proc/self/cgroup": f"0::{group}\n", "sys/fs/cgroup/cpu.max": "150000 100000"})
    else:
        folder = "sys/fs/cgroup/cpu"
        quota = {f"{folder}/cpu.cfs_quota_us": "150000\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
        write(tmp_path, {"proc/self/cgroup": f"4:cpu,cpuacct:{group}\n", **quota})
    assert cpus.available(tmp_path) == 2


@pytest.mark.parametrize(("quota", "processors"), [("-1", 8), ("0", 8), ("50000", 1), ("150000", 2), ("400000", 4)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_cgroup_v1_counts_rounded_up(tmp_path: Path, mount: str, quota: str, processors: int) -> None:
    group = f"sys/fs/cgroup/{mount}/a/b"
    write(tmp_path, {**V1, f"{group}/cpu.cfs_quota_us": f"{quota}\n", f"{group}/cpu.cfs_period_us": "100000\n"})
    assert cpus.available(tmp_path) == processors


def test_other_controllers_do_not_count(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/cpuset/a"
    files = {f"{group}/cpu.cfs_quota_us": "100000", f"{group}/cpu.cfs_period_us": "100000"}
    write(tmp_path, {"proc/self/cgroup": "3:cpuset:/a\n", **files})
    assert cpus.available(tmp_path) == PROCESSORS


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_count_if_both_are_mounted(tmp_path: Path, version: int) -> None:
    quotas = (
        {"sys/fs/cgroup/unified/a/cpu.max": "200000 100000"}
        if version == 2
        else {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000"}
    )
    write(tmp_path, {"proc/self/cgroup": "4:cpu,cpuacct:/a\n0::/a\n", **quotas})
    assert cpus.available(tmp_path) == 2


def test_a_path_may_contain_colons(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/a:b:c\n", "sys/fs/cgroup/a:b:c/cpu.max": "100000 100000"})
    assert cpus.available(tmp_path) == 1


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="no files at all"),
        pytest.param(V2, id="v2 without a quota's file"),
        pytest.param(V1, id="v1 without a quota's file"),
        pytest.param({**V2, f"{GROUP}/cpu.max": ""}, id="empty"),
        pytest.param({**V2, f"{GROUP}/cpu.max": "100000"}, id="no period"),
        pytest.param({**V2, f"{GROUP}/cpu.max": "100000 0"}, id="a period of zero"),
        pytest.param({**V2, f"{GROUP}/cpu.max": "-5 100000"}, id="below zero"),
        pytest.param({**V2, f"{GROUP}/cpu.max": "many processors"}, id="words"),
        pytest.param({**V2, f"{GROUP}/cpu.max": "1 2 3"}, id="too many numbers"),
        pytest.param({**V1, f"{V1_GROUP}/cpu.cfs_quota_us": "100000"}, id="v1 without a period"),
        pytest.param({**V1, f"{V1_GROUP}/cpu.cfs_quota_us": "x", f"{V1_GROUP}/cpu.cfs_period_us": "y"}, id="v1, words"),
        pytest.param({"proc/self/cgroup": ""}, id="no groups"),
        pytest.param(
            {"proc/self/cgroup": "no groups here\n"},
            id="no line of a group",
        ),
    ],
)
def test_without_a_quota_the_affinity_counts(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    assert cpus.available(tmp_path) == PROCESSORS


@pytest.mark.parametrize(("affinity", "processors"), [({0}, 1), ({2, 5, 7}, 3)])
def test_the_affinity_counts_if_it_is_lower_than_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, affinity: set[int], processors: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity)
    write(tmp_path, {**V2, f"{GROUP}/cpu.max": "400000 100000"})
    assert cpus.available(tmp_path) == processors


@pytest.mark.parametrize(("known", "processors"), [(4, 4), (None, 1)])
def test_without_affinity_all_processors_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: int | None, processors: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: known)
    assert cpus.available(tmp_path) == processors


def test_this_machine_has_a_processor() -> None:
    assert cpus.available() >= 1


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("fpu sse avx512f avx512_bf16 amx_tile", True),
        ("fpu sse amx_bf16 amx_tile", True),
        ("avx512_bf16", True),
        ("fpu sse avx512f avx512_vnni", False),
        ("fpu xavx512_bf16 amx_bf16_not", False),
        ("", False),
    ],
)
def test_bfloat16_is_read_from_the_flags(tmp_path: Path, flags: str, has: bool) -> None:
    text = f"processor\t: 0\nmodel name\t: avx512_bf16 in name only\nflags\t\t: {flags}\nbugs\t\t: amx_bf16\n"
    write(tmp_path, {"proc/cpuinfo": f"{text}\n{text}"})
    assert cpus.have_bfloat16(tmp_path) is has


@pytest.mark.parametrize("files", [{}, {"proc/cpuinfo": ""}, {"proc/cpuinfo": "Features : fp asimd bf16\n"}], ids=str)
def test_without_flags_there_is_no_bfloat16(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    assert not cpus.have_bfloat16(tmp_path)
