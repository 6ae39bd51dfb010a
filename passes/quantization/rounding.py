"""Scales and rounding of weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dechaff.passes.pass_context import PassContext

from .dense_layers import Matrix

Scales = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int8]


def largest_level(bits: int) -> int:
    """The largest integer of a symmetric range: 127 for 8 bits, 7 for 4."""
    return (1 << (bits - 1)) - 1


def round_columns(matrix: Matrix, bits: int) -> tuple[Integers, Scales]:
    """Round each column to integers by its largest magnitude.

    Args:
        matrix: float32[K, N].
        bits: 2 to 8.

    Returns:
        int8[K, N], and the scale of each column, float32[N]; a column of zeros has scale 1.
    """
    levels = largest_level(bits)
    scale = np.abs(matrix).max(axis=0, initial=0.0) / levels
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    integers = np.rint(matrix / scale).clip(-levels, levels)
    return integers.astype(np.int8), scale


def bits_of_machine(asked: int, context: PassContext) -> int:
    """Bits of weights in products with unsigned 8-bit integers: as asked, or all that are safe."""
    if asked:
        return asked
    return 7 if context.products_saturate else 8
