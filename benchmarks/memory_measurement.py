"""Peak memory of one contestant in a process of its own: ``benchmarks.memory`` starts it."""

from __future__ import annotations

import pathlib
import re
from typing import Any

from .child_process import child_result, child_task
from .grid.cells import Cell
from .grid.measurement import task_of
from .measure import peak_resident_bytes
from .peers import PEERS

_RUNS = 3


def resident_bytes() -> int:
    """The memory this process holds now, mapped files included."""
    found = re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert found is not None  # the kernel always tells
    return 1024 * int(found.group(1))


def measure(given: dict[str, Any]) -> dict[str, int]:
    """Load a contestant, run it, tell the peaks of either in bytes."""
    task = task_of(given, Cell(**given["cell"]))
    runner = PEERS[given["peer"]].build(task)
    loading = peak_resident_bytes()
    task.sessions.clear()
    before = resident_bytes()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    for _ in range(_RUNS):
        runner.run()
    return {"loading": loading, "loaded": before, "running": _high_water_bytes()}


def main() -> None:
    """In the child: measure."""
    child_result(measure(child_task()))


def _high_water_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert found is not None  # the kernel always tells
    return 1024 * int(found.group(1))


if __name__ == "__main__":
    main()
