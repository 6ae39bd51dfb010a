"""The search: rounds of measurements, each for the kernel where most time is to be won."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm.s_tir import meta_schedule

from dechaff.backends.tvm.tensor_intrinsics import load_tensor_intrinsics
from dechaff.ir import DechaffError

from .log_folder import TargetLog
from .static_kernels import Kernel, Sizes, at_sizes

ROUND_TRIALS = 16
"""Schedules measured before the search looks again which kernel deserves the next round."""


class TuningFailedError(DechaffError):
    """No schedule could be measured."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """Machines that measure, behind a tracker of TVM's RPC.

    For trusted networks only: servers run what they are sent, and nothing is authenticated.
    """

    host: str
    port: int
    key: str


@dataclasses.dataclass
class Task:
    """The tuning of one kernel.

    Attributes:
        kernel: the kernel.
        workload: the kernel with static sizes.
        trials: schedules measured so far, those of earlier runs included.
        best: seconds of one call under the best schedule; None before the first.
        rounds: rounds given in this run.
    """

    kernel: Kernel
    workload: Any
    trials: int
    best: float | None
    rounds: int = 0

    def worth(self) -> float:
        """How much a next round may win: the kernel's share of a run, less with every round."""
        seconds = self.best if self.best is not None else self.kernel.flops / 1e9
        return self.kernel.calls * seconds / (1 + self.rounds) ** 2


TuningProgress = Callable[[int, int, str], None]
"""Called with trials done, trials asked for, and the best so far in words."""


def tasks_of(kernels: Sequence[Kernel], log: TargetLog, target: Any, sizes: Sizes) -> list[Task]:
    """A task for each kernel whose sizes are all known; equal kernels share one."""
    tasks: list[Task] = []
    for kernel in kernels:
        workload = at_sizes(kernel.function, sizes)
        if workload is None:
            continue
        same = next((t for t in tasks if _equal(t.workload, workload)), None)
        if same is not None:
            total = same.kernel.calls + kernel.calls
            same.kernel = dataclasses.replace(same.kernel, calls=total)
            continue
        record = log.best(workload, target)
        best = None if record is None else _seconds(record)
        tasks.append(Task(kernel, workload, log.count(workload), best))
    return tasks


def _equal(left: Any, right: Any) -> bool:
    return bool(tvm_ffi.structural_equal(left, right))


def _seconds(record: Any) -> float:
    times = [float(item) for item in record.run_secs]
    return sum(times) / len(times)


def tune(
    tasks: Sequence[Task],
    log: TargetLog,
    target: Any,
    *,
    trials: int,
    seconds: float | None = None,
    pool: Pool | None = None,
    progress: TuningProgress = lambda done, total, text: None,
    seed: int | None = None,
) -> int:
    """Measure schedules until as many as asked for are in the log, or the time is over.

    A run that was killed goes on after its last whole round: what is in the log counts.

    Args:
        tasks: what to tune.
        log: where the measurements of each round are written.
        target: TVM's target.
        trials: how many measurements there shall be for all tasks together.
        seconds: an end to the time spent; None for none.
        pool: machines that measure; None for this one.
        progress: told after each round.
        seed: of the search; None for another one each time.

    Returns:
        How many measurements this run added.

    Raises:
        TuningFailedError: no schedule of a kernel could be measured.
    """
    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)
    load_tensor_intrinsics()
    started = time.monotonic()
    before = sum(task.trials for task in tasks)
    done = before
    while done < trials and (seconds is None or time.monotonic() - started < seconds):
        task = max(tasks, key=Task.worth, default=None)
        if task is None:
            break
        progress(done, trials, _text(tasks, task))
        count = min(ROUND_TRIALS, trials - done)
        added = _round(task, log, target, count, pool, seed)
        task.rounds += 1 if added else 4  # a search that finds nothing new is nearly spent
        done += added
        if not added and all(item.rounds >= 8 for item in tasks):
            break
    progress(done, trials, _text(tasks, None))
    if tasks and not any(task.best is not None for task in tasks):
        raise TuningFailedError(
            f"{log.folder}: no schedule could be measured for {target.kind.name}: tuning needs a "
            "device of that kind, here or in a pool given by --rpc"
        )
    return done - before


def _round(
    task: Task, log: TargetLog, target: Any, count: int, pool: Pool | None, seed: int | None
) -> int:
    context = meta_schedule.TuneContext(
        mod=task.workload,
        target=target,
        space_generator="post-order-apply",
        search_strategy=_strategy(),
        task_name=task.kernel.name,
        rand_state=-1 if seed is None else seed + task.rounds,
        num_threads=int(target.attrs.get("num-cores", 2)) if target.kind.name == "llvm" else 2,
    ).clone()
    meta_schedule.tune_tasks(
        tasks=[context],
        task_weights=[1.0],
        work_dir=str(log.folder),
        max_trials_global=count,
        num_trials_per_iter=count,
        builder=meta_schedule.builder.LocalBuilder(initializer=load_tensor_intrinsics),
        runner=_runner(pool),
        database=log.database,
        cost_model=_cost_model(),
    )
    measured = log.count(task.workload)
    added, task.trials = measured - task.trials, measured
    record = log.best(task.workload, target)
    task.best = None if record is None else _seconds(record)
    return added


def _learns() -> bool:
    """Whether xgboost is installed, from which measurements teach what to try next."""
    return importlib.util.find_spec("xgboost") is not None


def _strategy() -> Any:
    """Evolution under a learnt model; without one its thousands of candidates are for nothing."""
    if not _learns():
        return meta_schedule.search_strategy.ReplayTrace(max_fail_count=100)
    return meta_schedule.search_strategy.EvolutionarySearch(population_size=256)


def _cost_model() -> str:
    return "xgb" if _learns() else "random"


def _runner(pool: Pool | None) -> Any:
    config = meta_schedule.runner.EvaluatorConfig(
        number=3, repeat=1, min_repeat_ms=20, enable_cpu_cache_flush=False
    )
    if pool is None:
        return meta_schedule.runner.LocalRunner(timeout_sec=20, evaluator_config=config)
    connection = meta_schedule.runner.RPCConfig(
        tracker_host=pool.host,
        tracker_port=pool.port,
        tracker_key=pool.key,
        session_priority=1,
        session_timeout_sec=60,
    )
    return meta_schedule.runner.RPCRunner(connection, config, max_workers=2)


def _text(tasks: Sequence[Task], current: Task | None) -> str:
    known = [task for task in tasks if task.best is not None]
    total = sum(task.kernel.calls * (task.best or 0.0) for task in known)
    text = f"{len(known)} of {len(tasks)} kernels, {1000 * total:.3g} ms a run"
    return text if current is None else f"{text}; {current.kernel.name}"
