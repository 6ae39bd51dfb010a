"""Interleaved timing: A B C A B C, so that a change in the machine's load meets all alike."""

from __future__ import annotations

import contextlib
import gc
import os
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Run = Callable[[], Any]
Timings = dict[str, list[float]]
"""Seconds per run, a figure per round, by contestant."""

_PAUSE_SECONDS = 0.05
"""Idle threads of the contestant before spin for a while; let them come to rest."""
_TURN_SECONDS = 0.1
"""A turn repeats short runs until this much time is measured."""


def time_interleaved(runs: Mapping[str, Run], rounds: int, warm_up: int = 1) -> Timings:
    """Time all contestants in turns.

    Args:
        runs: what to time, by name.
        rounds: turns that each gets.
        warm_up: rounds before, which do not count.
    """
    timings: Timings = {name: [] for name in runs}
    with progress_bar((warm_up + rounds) * len(runs), "timing") as advance, _no_collection():
        for round_index in range(warm_up + rounds):
            for name, run in runs.items():
                advance(name)
                seconds = _turn(run)
                if round_index >= warm_up:
                    timings[name].append(seconds)
            gc.collect()
    return timings


def _turn(run: Run) -> float:
    """Seconds per run of one turn."""
    time.sleep(_PAUSE_SECONDS)
    count, started = 0, time.perf_counter()
    while True:
        run()
        count += 1
        elapsed = time.perf_counter() - started
        if elapsed >= _TURN_SECONDS:
            return elapsed / count


class OthersShare:
    """How much of the machine other processes took, in the time that this one runs its rounds.

    Used as a context manager; ``share`` is 0 where the system does not tell.
    """

    def __init__(self) -> None:
        self.share = 0.0

    def __enter__(self) -> OthersShare:
        self._began = (time.perf_counter(), _busy_seconds(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        now = (time.perf_counter(), _busy_seconds(), time.process_time())
        elapsed, busy, own = (end - start for start, end in zip(self._began, now, strict=True))
        self.share = max(0.0, busy - own) / (elapsed * (os.cpu_count() or 1))


def _busy_seconds() -> float:
    """Seconds that all processors together have computed since the system started."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return time.process_time()
    user, nice, system, _, _, interrupts, soft, *_ = map(int, fields)
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def median_ratio(timings: Timings, name: str, base: str) -> float:
    """How many times slower ``name`` is than ``base``: median of the ratios within each round."""
    return statistics.median(
        mine / theirs for mine, theirs in zip(timings[name], timings[base], strict=True)
    )


def peak_resident_bytes() -> int:
    """The most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Collect only between rounds, and then only what the runs made."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextlib.contextmanager
def progress_bar(total: int, title: str) -> Iterator[Callable[[str], None]]:
    """A function to call before each of ``total`` steps; it shows a bar if stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar:
        task = bar.add_task(title, total=total)
        done = -1

        def advance(step: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, completed=done, description=f"{title}: {step}")

        yield advance
