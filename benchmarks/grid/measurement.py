"""Cells in one process: every contestant is tried, then those in the running are timed in turns.

``python -m benchmarks.grid.measurement TASK RESULT`` measures in a process of its own. Contestants
are built once and serve all its cells, as they would serve requests of all sizes.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.accuracy import max_error, padding_is_zero
from benchmarks.child_process import child_result, child_task
from benchmarks.exports import Exports, quiet
from benchmarks.inputs import Array, Inputs, make_inputs, valid_share
from benchmarks.machine import versions
from benchmarks.measure import OthersShare, median_ratio, peak_resident_bytes, time_interleaved
from benchmarks.models import ModelUnderTest
from benchmarks.peers import DECHAFF, PEERS, REFERENCE, Runner, Task

from .cells import Cell
from .findings import find, finding_line
from .store import write_cell

HOPELESS = 1.5
"""A dense peer this many times slower than the best of them, when tried, gets no further rounds."""
HOPELESS_IN_LONG_CELLS = 1.12
"""The same where two rounds of all that are left would take longer than a cell may."""
_FEWEST_ROUNDS = 2
_TRIAL_RUNS = 4
_SHORT_RUN_SECONDS = 1.0
"""Shorter runs are tried several times, and get a round that does not count."""
_LONG_RUN_SECONDS = 10.0
"""A first run that took longer is not tried again: reading the weights is a small part of it."""


@dataclasses.dataclass
class _Trial:
    """A contestant after its first runs."""

    runner: Runner
    seconds: float
    error: float
    ready_seconds: float


def measure_cell(
    cell: Cell, task: Task, names: Sequence[str], rounds: int, seconds: float
) -> dict[str, Any]:
    """Figures of a cell, as plain data.

    Args:
        cell: the cell.
        task: model, files, threads and inputs.
        names: contestants; the reference and dechaff are among them.
        rounds: the most rounds.
        seconds: time that rounds may take, of which there are two at least.
    """
    started = time.perf_counter()
    mask = task.inputs["attention_mask"]
    trials, failures, zero = _try_all(task, names, mask)
    running = _in_the_running(trials, HOPELESS)
    if _FEWEST_ROUNDS * _round_seconds(trials, running) > seconds:
        running = _in_the_running(trials, HOPELESS_IN_LONG_CELLS)
    round_seconds = _round_seconds(trials, running)
    rounds = max(_FEWEST_ROUNDS, min(rounds, math.floor(seconds / max(round_seconds, 1e-6))))
    with OthersShare() as others:
        timings = time_interleaved(
            {name: trials[name].runner.run for name in running},
            rounds,
            warm_up=1 if round_seconds < _SHORT_RUN_SECONDS * len(running) else 0,
        )
    return {
        "cell": dataclasses.asdict(cell),
        "rows": [_row(name, trial, trials, timings) for name, trial in trials.items()],
        "failures": failures,
        "rounds": rounds,
        "threads": task.threads,
        "padded_length": mask.shape[1],
        "valid_share": valid_share(task.inputs),
        "padding_is_zero": zero,
        "peak_resident_bytes": peak_resident_bytes(),
        "seconds": time.perf_counter() - started,
        "others_share": others.share,
        "versions": versions(),
    }


def _try_all(
    task: Task, names: Sequence[str], mask: Array
) -> tuple[dict[str, _Trial], dict[str, str], bool]:
    """Build, run and check each; those that fail, with one line; whether padding is zero."""
    trials: dict[str, _Trial] = {}
    failures: dict[str, str] = {}
    reference: list[Array] = []
    zero = False
    for name in sorted(names, key=lambda name: (name != REFERENCE, list(PEERS).index(name))):
        started = time.perf_counter()
        try:
            with quiet():
                runner = PEERS[name].build(task)
                built = time.perf_counter()
                outputs = [array.copy() for array in runner.arrays(runner.run())]
        except Exception as error:
            if name in (REFERENCE, DECHAFF):
                raise
            failures[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            continue
        ready = time.perf_counter()
        reference = outputs if name == REFERENCE else reference
        zero = padding_is_zero(outputs, mask) if name == DECHAFF else zero
        distance = max_error(outputs, reference, mask)
        trial_seconds = _trial_seconds(runner.run, ready - built)
        trials[name] = _Trial(runner, trial_seconds, distance, ready - started)
    return trials, failures, zero


def _trial_seconds(run: Callable[[], Any], first: float) -> float:
    """The best of a few runs, or one if it is long; the first, if it was longer still.

    A first run reads the weights from the disk, and takes seconds where the second takes a tenth.
    """
    if first > _LONG_RUN_SECONDS:
        return first
    best = math.inf
    for _ in range(_TRIAL_RUNS):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
        if best > _SHORT_RUN_SECONDS:
            break
    return best


def _in_the_running(trials: dict[str, _Trial], hopeless: float) -> list[str]:
    dense = {name: trial.seconds for name, trial in trials.items() if PEERS[name].is_dense_peer}
    best = min(dense.values())
    return [name for name in trials if dense.get(name, 0) <= hopeless * best]


def _round_seconds(trials: dict[str, _Trial], running: Sequence[str]) -> float:
    return sum(trials[name].seconds for name in running)


def _row(
    name: str, trial: _Trial, trials: dict[str, _Trial], timings: dict[str, list[float]]
) -> dict[str, Any]:
    """A contestant's figures; without rounds of its own they are estimated from its trial."""
    peer = PEERS[name]
    timed = name in timings
    ratio = median_ratio(timings, name, DECHAFF) if timed else _tried_ratio(trial, trials, timings)
    base = statistics.median(timings[DECHAFF])
    return {
        "name": name,
        "title": peer.title,
        "is_dense_peer": peer.is_dense_peer,
        "rounds": len(timings[name]) if timed else 0,
        "milliseconds": 1000 * (statistics.median(timings[name]) if timed else ratio * base),
        "ratio": ratio,
        "max_error": trial.error,
        "ready_seconds": trial.ready_seconds,
        "detail": trial.runner.detail,
    }


def _tried_ratio(
    trial: _Trial, trials: dict[str, _Trial], timings: dict[str, list[float]]
) -> float:
    """By way of the best dense peer of the trials: dechaff's own trial may have been a slow one."""
    dense = [name for name in timings if PEERS[name].is_dense_peer]
    best = min(dense, key=lambda name: trials[name].seconds)
    return trial.seconds / trials[best].seconds * median_ratio(timings, best, DECHAFF)


def task_of(given: dict[str, Any], cell: Cell) -> Task:
    """The contestants' task, as the parent describes it."""
    model = ModelUnderTest(cell.model, cell.layers or None)
    return Task(
        model=model,
        exports=Exports(model, pathlib.Path(given["folder"])),
        door="torch",
        threads=given["threads"],
        inputs=_inputs(given, cell),
        saved={passes: pathlib.Path(path) for passes, path in given["saved"].items()},
    )


def _inputs(given: dict[str, Any], cell: Cell) -> Inputs:
    return make_inputs(cell.batch, cell.sequence, cell.lengths, given["vocabulary"])


def measure_cells(given: dict[str, Any]) -> int:
    """Measure the cells of one model, and write each when it is done.

    Args:
        given: ``cells`` and what each is ``expected`` to take, in seconds; ``until``, seconds since
            the epoch, after which none is begun that would not be done; ``measured``, where they
            are written; ``key``, which goes with them; ``keep_sessions`` from cell to cell, which
            takes more memory; contestants and files.

    Returns:
        How many were measured.
    """
    task: Task | None = None
    done = 0
    for fields, expected in zip(given["cells"], given["expected"], strict=True):
        if time.time() + expected > given["until"]:
            continue
        cell = Cell(**fields)
        if task is None or not given["keep_sessions"]:
            task = task_of(given, cell)
        else:
            task = dataclasses.replace(task, inputs=_inputs(given, cell))
        figures = measure_cell(cell, task, given["peers"], given["rounds"], given["seconds"])
        write_cell(pathlib.Path(given["measured"]), cell, figures | {"key": given["key"]})
        done += 1
        print(finding_line(find(cell, figures)), flush=True)
    return done


def main() -> None:
    """In the child: measure the cells of one model."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    child_result(measure_cells(child_task()))


if __name__ == "__main__":
    main()
