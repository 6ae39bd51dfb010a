"""Runs passes in order, keeps the module valid between them, and writes down what each did."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import onnx_ir.passes.common as common_passes
import sympy

from dechaff.ir import (
    DechaffError,
    Module,
    attach_functions,
    find_breaches,
    graph_cost,
    infer_shapes,
    num_parameters,
)

from .pass_base import Pass
from .pass_context import PassContext
from .rewrite_records import Miss, Rewrite, RewriteLimitReachedError
from .rewriter import Rewriter


class PassFailedError(DechaffError):
    """A pass left the module broken or raised; a defect of the pass, not of the model."""


@dataclasses.dataclass(frozen=True)
class GraphSize:
    """The size of a graph at one moment.

    Attributes:
        ops: operators by name, with their number.
        flops: formula in the symbolic sizes.
        bytes_moved: formula in the symbolic sizes.
        parameters: weight elements.
    """

    ops: Counter[str]
    flops: sympy.Expr
    bytes_moved: sympy.Expr
    parameters: int

    @property
    def num_ops(self) -> int:
        """Number of operators."""
        return sum(self.ops.values())


@dataclasses.dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Attributes:
        name: the pass as written in a pass list, options included.
        numerics: what the pass promises about the numbers.
        seconds: wall-clock time of the pass alone.
        rewrites: applications of its rules.
        misses: places where a rule nearly applied, with the reason.
        notes: what the pass decided, and why.
        before: size of the graph before the pass.
        after: size of the graph after it.
        undone: why the pass was undone, or None if it stands.
    """

    name: str
    numerics: str
    seconds: float
    rewrites: tuple[Rewrite, ...]
    misses: tuple[Miss, ...]
    notes: tuple[str, ...]
    before: GraphSize
    after: GraphSize
    undone: str | None = None

    @property
    def changed(self) -> bool:
        """Whether the pass changed the graph and still stands."""
        return self.undone is None and bool(self.rewrites)


class PassObserver(Protocol):
    """Is told of each pass as it starts and ends: progress bars, checks, traces."""

    def pass_starts(self, index: int, count: int, step: Pass) -> None:
        """Called before pass ``index`` of ``count``."""
        ...

    def pass_ends(self, before: Module, after: Module, record: PassRecord) -> str | None:
        """Called after a pass that changed the graph; a text as answer undoes the pass."""
        ...


def measure(module: Module) -> GraphSize:
    """The size of a module's main graph."""
    cost = graph_cost(module)
    ops = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in module.graph
    )
    return GraphSize(ops, cost.flops, cost.bytes_moved, num_parameters(module))


def run_passes(
    module: Module,
    passes: Sequence[Pass],
    observers: Sequence[PassObserver] = (),
    *,
    limit: int | None = None,
    context: PassContext | None = None,
) -> tuple[Module, list[PassRecord]]:
    """Run the passes over the module in place.

    Args:
        module: the module.
        passes: the passes, in order.
        observers: are told of each pass.
        limit: how many rewrites each pass may apply; it ends at the next one. None: all.
        context: calibration data and the machine, for passes that ask.

    Returns:
        The module (a snapshot of it, if an observer undid the last edits) and a record per pass.

    Raises:
        PassFailedError: a pass raised or left a module that breaks the IR's rules.
    """
    records: list[PassRecord] = []
    tidy(module)
    for index, step in enumerate(passes):
        for observer in observers:
            observer.pass_starts(index, len(passes), step)
        snapshot = module.clone()
        own_context = None if context is None else context.fresh()
        record = _run_one(module, step, measure(snapshot), limit, own_context)
        if record.rewrites:
            objections = [o.pass_ends(snapshot, module, record) for o in observers]
            reason = next((text for text in objections if text), None)
            if reason is not None:
                module = snapshot
                record = dataclasses.replace(record, undone=reason, after=record.before)
        records.append(record)
    return module, records


def apply_pass(
    module: Module, step: Pass, limit: int | None = None, context: PassContext | None = None
) -> Rewriter:
    """Run one pass over the module in place, without measuring what it did.

    Returns:
        The rewriter, which knows every edit.

    Raises:
        PassFailedError: the pass raised or left a module that breaks the IR's rules.
    """
    rewriter = Rewriter(module, limit, context)
    try:
        with contextlib.suppress(RewriteLimitReachedError):
            step.apply(module, rewriter)
    except (DechaffError, MemoryError):
        raise
    except Exception as error:
        raise PassFailedError(
            f"pass {step}: {type(error).__name__}: {error}; leave it out with -{step.name}"
        ) from error
    tidy(module)
    breaches = list(find_breaches(module))
    if breaches:
        raise PassFailedError(
            f"pass {step} left a broken graph; leave it out with -{step.name}:\n"
            + "\n".join(breaches)
        )
    return rewriter


def _run_one(
    module: Module,
    step: Pass,
    before: GraphSize,
    limit: int | None,
    context: PassContext | None,
) -> PassRecord:
    started = time.perf_counter()
    rewriter = apply_pass(module, step, limit, context)
    seconds = time.perf_counter() - started
    return PassRecord(
        name=str(step),
        numerics=step.numerics.value,
        seconds=seconds,
        rewrites=tuple(rewriter.rewrites),
        misses=tuple(rewriter.misses),
        notes=tuple(rewriter.notes),
        before=before,
        after=measure(module),
    )


def tidy(module: Module) -> None:
    """Sort, remove what nothing uses, attach dialect functions, fill in shapes."""
    attach_functions(module)
    module.graph.sort()  # first: unused nodes are found from the end backwards
    common_passes.RemoveUnusedNodesPass()(module.model)
    common_passes.RemoveUnusedFunctionsPass()(module.model)  # type: ignore[no-untyped-call]
    infer_shapes(module)
