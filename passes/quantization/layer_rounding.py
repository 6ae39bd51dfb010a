"""Rounding of layers that read one value: to nearest, or by what they read on calibration data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dechaff.passes.pass_context import ActivationWalk
from dechaff.passes.rewriter import Rewriter

from .dense_layers import DenseLayer, Matrix
from .gptq import Hessian, Rounder
from .grids import Grid
from .rounding import Integers

_COLUMNS = 4096
"""Output channels that GPTQ takes at a time: a bound on memory for wide layers."""


class NearestRounding:
    """Rounding to nearest, which looks at no data."""

    def round(self, matrix: Matrix, grid: Grid) -> Integers:
        """Integers of a grid, int8[K, N], for weights float32[K, N]."""
        return grid.round(matrix)


class GptqRounding:
    """Rounding by GPTQ, where it does better on the data than rounding to nearest.

    Attributes:
        errors: of rounding to nearest and of what was chosen, squared, for each part of a layer.
    """

    def __init__(
        self,
        layers: Sequence[DenseLayer],
        walk: ActivationWalk,
        rule: str,
        rewriter: Rewriter,
        *,
        damping: float,
        act_order: bool,
    ) -> None:
        """Look at what the layers read.

        Args:
            layers: they read one value.
            walk: of the calibration data, not yet beyond that value.
            rule: the rule that rounds.
            rewriter: is told where the data is of no use.
            damping: see :class:`Rounder`.
            act_order: the same.
        """
        self._hessian = gather_hessian(layers, walk)
        self._rounder = factorize(
            self._hessian, layers, rule, rewriter, damping=damping, act_order=act_order
        )
        self.errors: list[tuple[float, float]] = []

    def round(self, matrix: Matrix, grid: Grid) -> Integers:
        """Integers of a grid, int8[K, N], for weights float32[K, N]."""
        integers = np.empty(matrix.shape, np.int8)
        for start in range(0, matrix.shape[1], _COLUMNS):
            part = slice(start, start + _COLUMNS)
            columns = np.ascontiguousarray(matrix[:, part])
            integers[:, part] = self._choose(columns, grid.columns(part))
        return integers

    def _choose(self, matrix: Matrix, grid: Grid) -> Integers:
        rounded = grid.round(matrix)
        if self._rounder is None:
            return rounded
        chosen = self._rounder.round(matrix, grid)
        errors = [self._hessian.error(grid.restore(each) - matrix) for each in (rounded, chosen)]
        is_better = errors[1] < errors[0]
        self.errors.append((errors[0], min(errors)))
        return chosen if is_better else rounded


def gather_hessian(layers: Sequence[DenseLayer], walk: ActivationWalk) -> Hessian:
    """Second moments of the value that the layers read."""
    hessian, x = Hessian(layers[0].sizes[0]), layers[0].x
    for batch in walk.advance([x]):
        hessian.add(batch[x.name or ""])
    return hessian


def factorize(
    hessian: Hessian,
    layers: Sequence[DenseLayer],
    rule: str,
    rewriter: Rewriter,
    *,
    damping: float,
    act_order: bool,
) -> Rounder | None:
    """What rounds by the activations; None if these are of no use, and why is told."""
    reason = "its activations on the calibration data are not finite"
    if np.isfinite(hessian.sum).all():
        try:
            return Rounder(hessian, damping=damping, act_order=act_order)
        except np.linalg.LinAlgError as error:
            reason = str(error)
    for layer in layers:
        rewriter.miss(rule, layer.node, f"{reason}: it is rounded to nearest")
    return None
