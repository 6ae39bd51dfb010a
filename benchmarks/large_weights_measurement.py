"""In a child process: quantizes a large model from file to file, and watches its own memory."""

from __future__ import annotations

import pathlib
import threading
import time
from typing import Any

import numpy as np

import dechaff

from .child_process import child_result, child_task

_SEED = 3
_TOKENS = (4, 64)


class PeakMemory(threading.Thread):
    """Samples what the process holds: in all, and without what it only maps from files.

    Attributes:
        anonymous: the most so far, without files, in bytes.
        resident: the most so far, in bytes.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = 0
        self.resident = 0

    def run(self) -> None:
        """Sample until the process ends."""
        while True:
            text = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
            lines = [line.split() for line in text.splitlines() if line.endswith("kB")]
            found = {line[0].rstrip(":"): line[1] for line in lines}
            self.anonymous = max(self.anonymous, 1024 * int(found["RssAnon"]))
            self.resident = max(self.resident, 1024 * int(found["VmHWM"]))
            time.sleep(0.02)


def quantize(task: dict[str, Any]) -> dict[str, Any]:
    """In the child: quantize from file to file."""
    memory = PeakMemory()
    memory.start()
    started = time.perf_counter()
    ids = np.random.default_rng(_SEED).integers(0, task["vocabulary"], _TOKENS)
    optimized = dechaff.optimize(
        task["path"],
        passes=f"canonicalize,quantize-weights{{method={task['method']}}}",
        target="portable",
        verify="off",
        progress=False,
        calibration=[{"ids": ids}],
    )
    optimized.save(task["output"])
    assert optimized.report is not None  # optimize() always gives one
    return {
        "anonymous": memory.anonymous,
        "resident": memory.resident,
        "seconds": time.perf_counter() - started,
        "notes": list(optimized.report.notes),
    }


if __name__ == "__main__":
    child_result(quantize(child_task()))
