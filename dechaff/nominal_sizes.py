"""Concrete sizes at which cost formulas become figures that a reader can compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy

from dechaff.ir import Module, shape_expressions, symbol
from dechaff.ir.packing_ops import packed_sizes
from dechaff.passes import GraphSize

from .arrays import Array, runtime_inputs

_BATCH, _SEQUENCE, _OTHER = 16, 128, 16
_MOST_MASKS = 16
_KEPT_SHARE = 0.6
"""Share of positions that carry a token in a batch of lengths spread evenly over [0.2 S, S]."""


def nominal_sizes(module: Module, example: Mapping[str, Array] | None = None) -> dict[str, float]:
    """A size for every symbolic dimension of the graph inputs, and for the packed tokens ``T``.

    Sizes are those of the example where there is one, else B=16 and S=128, inside the declared
    ranges.
    """
    sizes: dict[str, float] = {}
    tokens: float | None = None
    for value in runtime_inputs(module):
        array = None if example is None else example.get(value.name or "")
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, int) or dim.value is None or not dim.value.isidentifier():
                continue
            size = _typical(module, dim.value, axis) if array is None else array.shape[axis]
            sizes.setdefault(dim.value, size)
        dims = shape_expressions(value)
        if tokens is None and dims is not None and len(dims) == 2:
            tokens = _KEPT_SHARE * evaluate(dims[0] * dims[1], sizes)
    tokens = tokens if tokens is not None else _KEPT_SHARE * _BATCH * _SEQUENCE
    return {**dict.fromkeys(packed_sizes(_MOST_MASKS), tokens), **sizes}


def nominal_batch(module: Module, example: Mapping[str, Array] | None = None) -> tuple[int, int]:
    """Rows and padded length of a batch: those of the example's first matrix, else typical ones."""
    sizes = nominal_sizes(module, example)
    for value in runtime_inputs(module):
        dims = shape_expressions(value)
        if dims is not None and len(dims) == 2:
            batch, sequence = (int(evaluate(dim, sizes)) for dim in dims)
            return batch, sequence
    return _BATCH, _SEQUENCE


def used_sizes(sizes: Mapping[str, float], graphs: Sequence[GraphSize]) -> dict[str, float]:
    """The sizes without those that none of the graphs' formulas holds."""
    formulas = [formula for graph in graphs for formula in (graph.flops, graph.bytes_moved)]
    used = {free.name for formula in formulas for free in formula.free_symbols}
    return {name: size for name, size in sizes.items() if name in used}


def _typical(module: Module, name: str, axis: int) -> int:
    wanted = _BATCH if axis == 0 else _SEQUENCE if axis == 1 else _OTHER
    allowed = module.symbols.get(name)
    if allowed is None:
        return wanted
    most = wanted if allowed.maximum is None else min(wanted, allowed.maximum)
    return max(most, allowed.minimum)


def evaluate(formula: sympy.Expr, sizes: Mapping[str, float]) -> float:
    """The value of a formula; symbols without a size count as 1."""
    known = {symbol(name): size for name, size in sizes.items()}
    result = formula.subs(known)
    return float(result.subs(dict.fromkeys(result.free_symbols, 1)))
