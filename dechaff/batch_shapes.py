"""Batches of other shapes than one that is known, as the next requests to a server will have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, shape_expressions

from .arrays import Array, Arrays, runtime_inputs
from .nominal_sizes import evaluate, nominal_sizes


def shorter_batches(module: Module, batch: Mapping[str, Array], count: int) -> list[Arrays]:
    """The starts of a batch, along the longest of the axes that may have any size.

    Axes whose sizes are computed from that one, such as ``past_sequence + sequence``, go along.

    Args:
        module: the model that the batch is for.
        batch: an array per graph input.
        count: how many batches; the axis is one shorter from each to the next.

    Returns:
        As many as the model allows, none where no size is free.
    """
    free = _free_sizes(module, batch)
    if not free:
        return []
    longest = max(free, key=lambda name: free[name])
    allowed = module.symbols.get(longest)
    least = 1 if allowed is None else max(1, allowed.minimum)
    shorter = range(free[longest] - 1, max(least, free[longest] - count) - 1, -1)
    sizes = nominal_sizes(module, batch)
    return [_start(module, batch, {**sizes, longest: size}) for size in shorter]


def _start(module: Module, batch: Mapping[str, Array], sizes: Mapping[str, float]) -> Arrays:
    part = dict(batch)
    for value in runtime_inputs(module):
        dims = shape_expressions(value)
        if value.name in part and dims is not None:
            cut = tuple(slice(int(evaluate(dim, sizes))) for dim in dims)
            part[value.name] = np.ascontiguousarray(part[value.name][cut])
    return part


def _free_sizes(module: Module, batch: Mapping[str, Array]) -> dict[str, int]:
    """Sizes in the batch of axes that have a name of their own, a later axis first."""
    given = [value for value in runtime_inputs(module) if value.name in batch]
    found = [
        (axis, dim.value, batch[value.name or ""].shape[axis])
        for value in given
        for axis, dim in enumerate(value.shape or ())
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None and dim.value.isidentifier()
    ]
    return {name: size for _, name, size in sorted(found, reverse=True)}
