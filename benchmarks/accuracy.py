"""How far a contestant's outputs are from the reference's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inputs import Array

TOLERANCE = 2e-5
"""Largest absolute error, float32, on valid positions."""


def max_error(outputs: Sequence[Array], reference: Sequence[Array], mask: Array) -> float:
    """Largest absolute difference, over the valid positions of ``[batch, sequence, ...]`` outputs.

    Not a number, if one of them is not.

    Args:
        outputs: a contestant's outputs, in the model's order.
        reference: the reference's outputs.
        mask: ``[batch, sequence]``, 1 at valid positions.
    """
    errors = [
        np.abs(_valid(output, mask) - _valid(expected, mask)).max()
        for output, expected in zip(outputs, reference, strict=True)
    ]
    return float(np.max(errors))


def padding_is_zero(outputs: Sequence[Array], mask: Array) -> bool:
    """Whether padded positions of ``[batch, sequence, ...]`` outputs are exactly zero."""
    return all(not output[mask == 0].any() for output in outputs if _has_positions(output, mask))


def _valid(output: Array, mask: Array) -> Array:
    return output[mask != 0] if _has_positions(output, mask) else output


def _has_positions(output: Array, mask: Array) -> bool:
    return output.ndim >= 3 and output.shape[:2] == mask.shape
