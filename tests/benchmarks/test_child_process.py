from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from benchmarks.child_process import ChildFailedError, run_child

CHILD = "tests.benchmarks.sleeping_child"
PARENT = f"from benchmarks.child_process import run_child; run_child({CHILD!r}, {{'note': NOTE}})"


def test_a_child_hands_back_what_it_found() -> None:
    assert run_child(CHILD, {"answer": 3}) == 3


def test_a_child_that_fails_is_told_with_its_last_line() -> None:
    with pytest.raises(ChildFailedError, match="KeyError"):
        run_child(CHILD, {})


def test_a_parent_that_is_ended_ends_its_child(tmp_path: pathlib.Path) -> None:
    note = tmp_path / "pid"
    program = PARENT.replace("NOTE", repr(str(note)))
    with subprocess.Popen([sys.executable, "-c", program], start_new_session=True) as parent:
        _wait(note.exists)
        child = int(note.read_text())
        parent.terminate()
        assert parent.wait(20) != 0
    _wait(lambda: not _runs(child))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _wait(until: Callable[[], bool]) -> None:
    for _ in range(400):
        if until():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 20 s")
