"""A child that answers, or notes its process and sleeps."""

from __future__ import annotations

import os
import pathlib
import time

from benchmarks.child_process import child_result, child_task

if __name__ == "__main__":
    task = child_task()
    if "note" in task:
        written = pathlib.Path(task["note"] + ".part")
        written.write_text(str(os.getpid()))
        written.rename(task["note"])
        time.sleep(60)
    child_result(task["answer"])
