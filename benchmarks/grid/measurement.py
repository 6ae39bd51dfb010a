"""One cell: every contestant is tried, then those in the running are timed in turns.

``python -m benchmarks.grid.measurement TASK RESULT`` measures in a process of its own.
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
from benchmarks.inputs import Array, make_inputs, valid_share
from benchmarks.measure import median_ratio, peak_resident_bytes, time_interleaved
from benchmarks.models import ModelUnderTest
from benchmarks.peers import DECHAFF, PEERS, REFERENCE, Runner, Task

from .cells import Cell

HOPELESS = 1.5
"""A dense peer this many times slower than the best of them, when tried, gets no further rounds."""
_FEWEST_ROUNDS = 2
_TRIAL_RUNS = 4
_SHORT_RUN_SECONDS = 1.0
"""Shorter runs are tried several times, and get a round that does not count."""


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
    task.sessions.clear()  # what nobody runs any more gives its memory back
    running = _in_the_running(trials)
    for name in trials.keys() - set(running):
        trials[name].runner = dataclasses.replace(trials[name].runner, run=lambda: None)
    round_seconds = sum(trials[name].seconds for name in running)
    rounds = max(_FEWEST_ROUNDS, min(rounds, math.floor(seconds / max(round_seconds, 1e-6))))
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
                outputs = [array.copy() for array in runner.arrays(runner.run())]
        except Exception as error:
            if name in (REFERENCE, DECHAFF):
                raise
            failures[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            continue
        ready = time.perf_counter() - started
        reference = outputs if name == REFERENCE else reference
        zero = padding_is_zero(outputs, mask) if name == DECHAFF else zero
        distance = max_error(outputs, reference, mask)
        trials[name] = _Trial(runner, _trial_seconds(runner.run), distance, ready)
    return trials, failures, zero


def _trial_seconds(run: Callable[[], Any]) -> float:
    """The best of a few runs, or one if it is long."""
    best = math.inf
    for _ in range(_TRIAL_RUNS):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
        if best > _SHORT_RUN_SECONDS:
            break
    return best


def _in_the_running(trials: dict[str, _Trial]) -> list[str]:
    dense = {name: trial.seconds for name, trial in trials.items() if PEERS[name].is_dense_peer}
    best = min(dense.values())
    return [name for name in trials if dense.get(name, 0) <= HOPELESS * best]


def _row(
    name: str, trial: _Trial, trials: dict[str, _Trial], timings: dict[str, list[float]]
) -> dict[str, Any]:
    """A contestant's figures; without rounds of its own they are those of its trial."""
    peer = PEERS[name]
    timed = name in timings
    ratio = trial.seconds / trials[DECHAFF].seconds
    return {
        "name": name,
        "title": peer.title,
        "is_dense_peer": peer.is_dense_peer,
        "rounds": len(timings[name]) if timed else 0,
        "milliseconds": 1000 * (statistics.median(timings[name]) if timed else trial.seconds),
        "ratio": median_ratio(timings, name, DECHAFF) if timed else ratio,
        "max_error": trial.error,
        "ready_seconds": trial.ready_seconds,
        "detail": trial.runner.detail,
    }


def task_of(given: dict[str, Any], cell: Cell) -> Task:
    """The contestants' task, as the parent describes it."""
    model = ModelUnderTest(cell.model, cell.layers or None)
    return Task(
        model=model,
        exports=Exports(model, pathlib.Path(given["folder"])),
        door="torch",
        threads=given["threads"],
        inputs=make_inputs(cell.batch, cell.sequence, cell.lengths, given["vocabulary"]),
        saved={passes: pathlib.Path(path) for passes, path in given["saved"].items()},
    )


def main() -> None:
    """In the child: measure one cell."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    given = child_task()
    cell = Cell(**given["cell"])
    task = task_of(given, cell)
    child_result(measure_cell(cell, task, given["peers"], given["rounds"], given["seconds"]))


if __name__ == "__main__":
    main()
