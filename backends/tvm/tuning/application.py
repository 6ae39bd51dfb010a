"""A tuning log applied to a lowered model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tvm

from .log_folder import TargetLog
from .replay import ReplayError, replay
from .static_kernels import Sizes, at_sizes, is_tunable


@dataclasses.dataclass(frozen=True)
class Application:
    """What a log gave to a model.

    Attributes:
        module: the Relax module; tuned kernels carry their schedule.
        hits: names of kernels that a record was applied to.
        misses: names of kernels that the log has no record for; they keep the default schedule.
        unfit: kernels whose record does not apply to symbolic sizes, with the reason.
    """

    module: Any
    hits: tuple[str, ...]
    misses: tuple[str, ...]
    unfit: tuple[tuple[str, str], ...]


def apply_log(module: Any, target: Any, log: TargetLog, sizes: Sizes) -> Application:
    """Schedule the kernels of a fused Relax module by a log.

    A kernel with symbolic sizes takes the schedule found at the sizes nearest to ``sizes`` among
    those that the log's models were tuned at (the smallest sum of ``|log(a / b)|`` over the sizes
    they share); see :func:`~.replay.replay` for how it is carried over.
    """
    buckets = sorted((model.sizes for model in log.manifest.models), key=distance_to(sizes))
    updated: dict[Any, Any] = {}
    hits, misses, unfit = [], [], []
    for variable, function in module.functions_items():
        if not is_tunable(function):
            continue
        record = _record(function, target, log, buckets)
        if record is None:
            misses.append(variable.name_hint)
            continue
        own = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
        try:
            scheduled = replay(record.trace, own)["main"]
        except ReplayError as error:
            unfit.append((variable.name_hint, str(error)))
            continue
        hits.append(variable.name_hint)
        scheduled = scheduled.without_attr("global_symbol").with_attr("tirx.is_scheduled", True)
        updated[variable] = scheduled
    for variable, function in updated.items():
        module.update_func(variable, function)
    return Application(module, tuple(hits), tuple(misses), tuple(unfit))


def _record(function: Any, target: Any, log: TargetLog, buckets: list[dict[str, int]]) -> Any:
    for sizes in buckets:
        static = at_sizes(function, sizes)
        record = None if static is None else log.best(static, target)
        if record is not None:
            return record
    return None


def distance_to(wanted: Sizes) -> Callable[[dict[str, int]], float]:
    """How far sizes are from those wanted: the sum of ``|log(a / b)|`` over those they share."""

    def distance(sizes: dict[str, int]) -> float:
        shared = [name for name in sizes if name in wanted and sizes[name] and wanted[name]]
        return sum(abs(math.log(sizes[name] / wanted[name])) for name in shared)

    return distance
