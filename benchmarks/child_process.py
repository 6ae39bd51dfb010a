"""One measurement, one process: its memory is given back, and its peak is its own."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SHOWN = 300


class ChildFailedError(Exception):
    """The process ended without a result; the message is its last line."""


def run_child(module: str, task: dict[str, Any]) -> Any:
    """Run ``python -m module TASK RESULT``, two JSON files, and give what it wrote.

    An interruption, or an end that is asked of this process, ends the child before.

    Raises:
        ChildFailedError: it fails, or is killed, as for want of memory.
    """
    with tempfile.TemporaryDirectory(prefix="dechaff-benchmark-") as folder:
        given, result = (pathlib.Path(folder) / name for name in ("task.json", "result.json"))
        given.write_text(json.dumps(task), encoding="utf-8")
        command = [sys.executable, "-m", module, str(given), str(result)]
        with (
            _termination_raises(),
            subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True) as child,
        ):
            try:
                _, errors = child.communicate()
            except BaseException:
                child.kill()
                raise
        if child.returncode or not result.exists():
            last = (errors.strip().splitlines() or ["no message"])[-1]
            raise ChildFailedError(f"exit code {child.returncode}: {last[:_SHOWN]}")
        return json.loads(result.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM unwind like an exit: what runs on as an orphan would spoil later timings."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def child_task() -> dict[str, Any]:
    """In the child: the task it was given."""
    task: dict[str, Any] = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    return task


def child_result(result: Any) -> None:
    """In the child: hand back the result."""
    pathlib.Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
