"""Kernels of a lowered model at representative sizes: MetaSchedule searches static shapes only."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

from dechaff.backends.tvm.emission import WRITTEN

Sizes = Mapping[str, int]
"""A size for each symbolic dimension of the inputs, and ``T`` for the packed tokens."""

PACKED_TOKENS = "T"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a lowered model.

    Attributes:
        name: what it is called in the module, such as ``fused_matmul_add``.
        function: the function as it stands, symbolic sizes included.
        calls: how often a run of the model calls it.
        flops: operations of one call at the representative sizes.
    """

    name: str
    function: Any
    calls: int
    flops: float


def kernels_of(module: Any, sizes: Sizes) -> list[Kernel]:
    """The kernels of a fused Relax module, those with most work in a run first.

    Kernels that carry a schedule already, and those that add or multiply nothing up, are left out.
    """
    calls = Counter(_called_names(module))
    found = []
    for variable, function in module.functions_items():
        if not is_tunable(function):
            continue
        static = at_sizes(function, sizes)
        flops = float(s_tir.analysis.estimate_tir_flops(static)) if static is not None else 0.0
        name = variable.name_hint
        found.append(Kernel(name, function, calls[name], flops))
    return sorted(found, key=lambda kernel: (-kernel.calls * kernel.flops, kernel.name))


def is_tunable(function: Any) -> bool:
    """Whether MetaSchedule may schedule the function: an unscheduled one that sums something up."""
    if not isinstance(function, tirx.PrimFunc):
        return False
    if any(name in (function.attrs or {}) for name in ("tirx.is_scheduled", WRITTEN)):
        return False
    return _has_reduction(function)


def _has_reduction(function: Any) -> bool:
    found = False

    def visit(block: Any) -> None:
        nonlocal found
        kinds = [int(variable.iter_type) for variable in block.iter_vars]
        found = found or tirx.IterVar.CommReduce in kinds

    tvm_ffi.structural_walk(function.body, (s_tir.SBlock, visit), order="post")
    return found


def _called_names(module: Any) -> list[str]:
    names: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, tvm.ir.Call) and getattr(node.op, "name", "") == "relax.call_tir":
            names.append(node.args[0].name_hint)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
    return names


def at_sizes(function: Any, sizes: Sizes) -> Any | None:
    """The function as a module of its own in which every size is a number; None if one is unknown.

    A size that only a run can tell (named by the lowering) is that of the packed tokens.
    """
    scalars = {p: p.name for p in function.params if _is_scalar(p)}
    in_shapes = {v: v.name for v in _shape_variables(function) if v not in scalars}
    numbers = {v: _number(name, sizes) for v, name in (scalars | in_shapes).items()}
    if any(number is None for number in numbers.values()):
        return None
    values = {v: tirx.IntImm("int64", n) for v, n in numbers.items() if n is not None}
    if scalars:
        function = function.specialize({v: values[v] for v in scalars})
    if in_shapes:
        function = tvm_ffi.structural_map(
            function, (tvm.ir.Var, lambda variable: values.get(variable, variable)), order="post"
        )
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def rows_at(leading: Sequence[Any], sizes: Sizes) -> int | None:
    """The product of symbolic sizes as a number; None if one is unknown."""
    rows = 1
    for size in leading:
        names = {v: _number(v.name, sizes) for v in tirx.analysis.undefined_vars(size)}
        if any(number is None for number in names.values()):
            return None
        values = {v: tirx.IntImm("int64", n) for v, n in names.items() if n is not None}
        known = tvm_ffi.structural_map(
            size, (tvm.ir.Var, lambda variable, values=values: values[variable]), order="post"
        )
        rows *= int(tvm.sym.Analyzer().simplify(known))
    return rows


def _is_scalar(parameter: Any) -> bool:
    return not isinstance(parameter.ty, tirx.BufferType)


def _shape_variables(function: Any) -> list[Any]:
    found: dict[Any, None] = {}
    for parameter in function.params:
        if _is_scalar(parameter):
            continue
        for size in parameter.ty.shape:
            found.update(dict.fromkeys(tirx.analysis.undefined_vars(size)))
    return list(found)


def _number(name: str, sizes: Sizes) -> int | None:
    if name in sizes:
        return int(sizes[name])
    stem = name.rsplit("_", 1)[0]
    known_by_run = stem in ("tokens", "size", "found")
    return int(sizes[PACKED_TOKENS]) if known_by_run and PACKED_TOKENS in sizes else None
