"""How many processors this process may use: what TensorFlow's pools of threads should be sized by.

TensorFlow looks at the affinity only. A container is limited by a quota of CPU time instead, and threads beyond it are
stopped in the middle of their work, for tens of milliseconds at a time.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available(root: Path = Path("/")) -> int:
    """Processors by affinity and by CPU quota (cgroup v2 and v1), rounded up; at least 1.

    `root` is where /proc and /sys are.
    """
    processors = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return max(1, math.ceil(min((processors, *_quotas(root)))))


def have_bfloat16(root: Path = Path("/")) -> bool:
    """Whether the processors multiply in bfloat16 (AVX512_BF16 or AMX). Known on Linux only."""
    text = _read(root / "proc/cpuinfo")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of this process' group and of the groups round it, in processors."""
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, found, path = rest.partition(":")
        if not found:
            continue
        if not controllers:
            # Where v1 is mounted too, v2 has a folder of its own.
            folders = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            folders = [mounts / "cpu", mounts / controllers]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for folder in folders:
            # A container may see its own group as the root, whatever its path is outside.
            for part in (group, *group.parents):
                yield from _quota(folder / part)


def _quota(group: Path) -> Iterator[float]:
    """The quota of one group, where it has one: v2 writes "QUOTA PERIOD" into one file, v1 has two; in microseconds."""
    fields = _read(group / "cpu.max").split()
    if not fields:
        fields = [_read(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        quota, period = (int(field) for field in fields)
    except ValueError:
        # "max", or no file.
        return
    if quota > 0 and period > 0:
        yield quota / period


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
