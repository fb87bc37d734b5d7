"""Counts the processors that this process may use, for the size of TensorFlow's thread pools.

TensorFlow itself considers only the CPU affinity. A container is limited by a quota of CPU time instead. If a process
runs more threads than its quota allows, the system stops them for tens of milliseconds at a time.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available(root: Path = Path("/")) -> int:
    """Return the processors that affinity and CPU quota (cgroup v2 and v1) allow, rounded up; at least 1.

    `root` is the folder that contains proc and sys.
    """
    processors = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return max(1, math.ceil(min((processors, *_quotas(root)))))


def have_bfloat16(root: Path = Path("/")) -> bool:
    """Return whether the processors multiply in bfloat16 (AVX512_BF16 or AMX). False if the system is not Linux."""
    text = _read(root / "proc/cpuinfo")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas of this process' control group and of its parents, in processors."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, found, path = rest.partition(":")
        if not found:
            continue
        if not controllers:
            # If v1 is also mounted, v2 has a folder of its own.
            folders = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            folders = [mounts / "cpu", mounts / controllers]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for folder in folders:
            # In a container, the process' own group may be mounted as the root.
            for part in (group, *group.parents):
                yield from _quota(folder / part)


def _quota(group: Path) -> Iterator[float]:
    """Yield the quota of one group if it has one.

    v2 has one file, "QUOTA PERIOD", and v1 has two files; both in microseconds.
    """
    fields = _read(group / "cpu.max").split()
    if not fields:
        fields = [_read(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        quota, period = (int(field) for field in fields)
    except ValueError:
        # The file contains "max", or does not exist.
        return
    if quota > 0 and period > 0:
        yield quota / period


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
