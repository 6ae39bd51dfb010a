"""``tune``: from a model to a tuning log; the search itself is the backend's."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dechaff.ir import Module, UsageError, to_text
from dechaff.passes import PassList, parse_pass_list, run_passes

from .model_import import batches_of, example_cases, import_model
from .nominal_sizes import nominal_sizes
from .progress import Progress, ProgressFunction, show_progress

if TYPE_CHECKING:
    from dechaff.backends.tvm.tuning.log_folder import TargetLog
    from dechaff.backends.tvm.tuning.product_records import MeasuredProduct


@dataclasses.dataclass(frozen=True)
class TuningResult:
    """What one call of ``tune`` did.

    Attributes:
        folder: where the log of the target lies.
        sizes: the sizes at which kernels were tuned.
        added: measurements made by this call.
        kernels: for each kernel, most expensive first: its name, calls in a run, measurements in
            the log, and seconds of one call under the best schedule, None if there is none.
        products: dense layers, each with seconds by generated code and by a library.
    """

    folder: str
    sizes: Mapping[str, int]
    added: int
    kernels: tuple[tuple[str, int, int, float | None], ...]
    products: tuple[tuple[str, float, float], ...] = ()


def tune(
    model: Any,
    example_inputs: Any = None,
    *,
    target: str,
    log: str | os.PathLike[str],
    trials: int = 256,
    seconds: float | None = None,
    ops: Sequence[str] = (),
    sizes: Mapping[str, int] | None = None,
    passes: PassList = "default",
    rpc: tuple[str, int, str] | None = None,
    progress: Progress = None,
) -> TuningResult:
    """Search schedules for a model's kernels by measurement, and keep them in a log.

    ``optimize(model, target=..., tuning_log=log)`` applies the log. A run that is cut off goes on
    after its last whole round of 16 measurements. In the end each dense layer is measured once more
    beside a library's product, and the log says which is faster.

    Args:
        model: what :func:`dechaff.optimize` takes.
        example_inputs: as for ``optimize``; the kernels are tuned at their sizes.
        target: ``cuda``, ``llvm``, a tag of TVM, or a target as JSON.
        log: the folder of the log; each target has a folder of its own in it.
        trials: measurements that the log shall hold for this model's kernels in the end.
        seconds: an end to the time spent; None for none.
        ops: parts of kernels' names; only kernels that contain one are tuned. All if empty.
        sizes: sizes by symbol, such as ``{"batch": 8, "sequence": 128}``, and ``T`` for the packed
            tokens; those not given are the example's, or typical ones.
        passes: the pass list that the model is optimized with first.
        rpc: host, port and key of a tracker of TVM's RPC, whose servers measure.
        progress: as for ``optimize``.

    Raises:
        UsageError: no such target, size or kernel, or the log cannot be written to.
        MissingPackageError: TVM is not installed.
        ModelRejectedError: the model cannot be read or captured.
        TuningFailedError: nothing could be measured.
    """
    from dechaff.backends.tvm import resolve_target
    from dechaff.backends.tvm.build import fused_kernels
    from dechaff.backends.tvm.tuning.log_folder import TargetLog, TunedModel
    from dechaff.backends.tvm.tuning.static_kernels import kernels_of
    from dechaff.backends.tvm.tuning.tuner import Pool, tasks_of
    from dechaff.backends.tvm.tuning.tuner import tune as search

    resolved = resolve_target(target)
    batches = batches_of(example_inputs)
    module = import_model(model, batches[0] if batches else None)
    cases = example_cases(module, batches)
    chosen = sizes_for(module, cases[0].inputs if cases else None, sizes)
    optimized, _ = run_passes(module.clone(), parse_pass_list(passes))
    kernels = kernels_of(fused_kernels(optimized, resolved), chosen)
    wanted = [kernel for kernel in kernels if _is_chosen(kernel.name, ops)]
    if not wanted:
        names = ", ".join(kernel.name for kernel in kernels) or "none that can be tuned"
        raise UsageError(f"{module.source}: no kernel is named {', '.join(ops)}: there are {names}")
    opened = TargetLog.at(log, resolved)
    tasks = tasks_of(wanted, opened, resolved, chosen)
    digest = hashlib.sha256(to_text(optimized).encode()).hexdigest()[:16]
    opened.add_model(TunedModel(module.source, digest, dict(chosen)))
    with show_progress(progress) as report:
        added = search(
            tasks,
            opened,
            resolved,
            trials=trials,
            seconds=seconds,
            pool=Pool(*rpc) if rpc is not None else None,
            progress=report,
        )
        measured = _measured_products(optimized, resolved, chosen, opened, rpc, report)
    rows = tuple((t.kernel.name, t.kernel.calls, t.trials, t.best) for t in tasks)
    products = tuple((str(item.product), item.generated, item.library) for item in measured)
    return TuningResult(str(opened.folder), chosen, added, rows, products)


def _measured_products(
    module: Module,
    target: Any,
    sizes: Mapping[str, int],
    log: TargetLog,
    rpc: tuple[str, int, str] | None,
    report: ProgressFunction,
) -> list[MeasuredProduct]:
    """Dense layers, measured both ways and kept in the log; none where the device is elsewhere."""
    from dechaff.backends.tvm import device_exists
    from dechaff.backends.tvm.tuning.product_measurement import measure_products, products_of
    from dechaff.backends.tvm.tuning.product_records import add_products

    if rpc is not None or not device_exists(target):
        return []
    products = products_of(module, target, sizes)
    steps = itertools.count()

    def progress(text: str) -> None:
        report(next(steps), len(products), text)

    measured = measure_products(products, target, sizes, log, progress)
    add_products(log.folder, measured)
    return measured


def sizes_for(
    module: Module, example: Mapping[str, Any] | None, given: Mapping[str, int] | None
) -> dict[str, int]:
    """A size for each symbol: those given, the example's, or typical ones.

    Raises:
        UsageError: a size is given for a symbol that the model does not have.
    """
    nominal = {name: max(1, round(size)) for name, size in nominal_sizes(module, example).items()}
    unknown = [name for name in given or {} if name not in nominal]
    if unknown:
        raise UsageError(
            f"{module.source}: there is no size {', '.join(unknown)}; the model has "
            f"{', '.join(_sizes_of_inputs(module))}"
        )
    merged = {**nominal, **(given or {})}
    if "T" not in (given or {}) and given:
        share = nominal["T"] / _tokens_of(module, nominal)
        merged["T"] = max(1, round(share * _tokens_of(module, merged)))
    return merged


def _tokens_of(module: Module, sizes: Mapping[str, int]) -> int:
    """Positions of the first matrix among the inputs."""
    for value in module.graph.inputs:
        if value.shape is not None and len(value.shape) == 2:
            dims = [
                dim if isinstance(dim, int) else sizes.get(dim.value or "", 1)
                for dim in value.shape
            ]
            return dims[0] * dims[1]
    return 1


def _is_chosen(name: str, ops: Sequence[str]) -> bool:
    return not ops or any(op in name for op in ops)


def _sizes_of_inputs(module: Module) -> list[str]:
    """The symbols that the inputs' shapes name, each once."""
    dims = [dim for value in module.graph.inputs for dim in value.shape or ()]
    return list(dict.fromkeys(str(dim.value) for dim in dims if not isinstance(dim, int)))
