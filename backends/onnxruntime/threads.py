"""How many threads to run on."""

from __future__ import annotations

import os
from pathlib import Path

_SYSTEM = Path("/sys")


def usable_cores(system: Path = _SYSTEM) -> int:
    """Physical cores this process may use: its affinity, without the siblings of hyper-threading.

    Two threads on one core share its vector units, so that matrix products gain nothing from the
    second. ONNX Runtime's own default counts the machine's cores, which oversubscribes a process
    that a container or ``taskset`` holds to fewer of them.

    Args:
        system: where the kernel describes the machine.
    """
    allowed = _allowed_processors()
    cores = {_siblings(system, processor) for processor in allowed}
    limit = _container_limit(system / "fs/cgroup")
    return max(1, len(cores) if limit is None else min(len(cores), limit))


def _allowed_processors() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _siblings(system: Path, processor: int) -> str:
    """What the threads of one core have in common; the processor itself if nothing is known."""
    topology = system / f"devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
    try:
        return topology.read_text().strip()
    except OSError:
        return str(processor)


def _container_limit(groups: Path) -> int | None:
    """Whole cores of the control group's CPU quota, version 2 or 1; None if there is no quota."""
    versions = (
        (groups / "cpu.max",),
        (groups / "cpu/cpu.cfs_quota_us", groups / "cpu/cpu.cfs_period_us"),
    )
    for files in versions:
        try:
            quota, period = " ".join(file.read_text() for file in files).split()
            return max(1, int(quota) // int(period)) if int(quota) > 0 else None
        except (OSError, ValueError):  # no such file, or "max": no quota
            continue
    return None
