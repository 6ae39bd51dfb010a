"""How many threads to run on."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> int:
    """Physical cores this process may use: its affinity, without the siblings of hyper-threading.

    ONNX Runtime's own default counts the machine's cores, which oversubscribes a process that a
    container or ``taskset`` holds to fewer of them.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is None:
        return os.cpu_count() or 1
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _container_limit() or len(cores)))


def _siblings(cpu: int) -> str:
    try:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        return topology.read_text().strip()
    except OSError:
        return str(cpu)


def _container_limit() -> int | None:
    """Whole cores of the control group's CPU quota; None if there is no quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None
