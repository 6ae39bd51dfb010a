"""GPTQ: rounding that makes up for the error of each weight in those not rounded yet.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, algorithm 1; the order of columns is *act-order* and the grid *static
groups* of the authors' later code, so that nothing is permuted at inference.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .dense_layers import Matrix
from .grids import Grid
from .rounding import Integers

_BLOCK = 128
_STRIP = 512
_ATTEMPTS = 4
"""Dampings tried, each ten times the one before, until the Hessian can be factorized."""

Square = npt.NDArray[np.float32]


class Hessian:
    """Second moments of a layer's activations, ``sum of x xᵀ``, over batches.

    GPTQ asks for their shape only: a factor on all of them, such as the paper's 2/n, changes
    nothing.

    Attributes:
        sum: float32[features, features].
        tokens: how many tokens there were.
    """

    def __init__(self, features: int) -> None:
        self.sum = np.zeros((features, features), np.float32)
        self.tokens = 0

    def add(self, activations: npt.NDArray[np.float32]) -> None:
        """Take the activations of a batch, float32[..., features]."""
        rows = activations.reshape(-1, activations.shape[-1])
        self.sum += rows.T @ rows
        self.tokens += len(rows)

    def error(self, difference: Matrix) -> float:
        """Squared norm that a difference of weights, float32[K, N], makes in all outputs.

        The moments are symmetric: what lies right of their diagonal blocks counts twice.
        """
        total = 0.0
        for start in range(0, len(difference), _STRIP):
            end = min(start + _STRIP, len(difference))
            own = difference[start:end]
            product = self.sum[start:end, end:] @ difference[end:]
            product *= 2
            product += self.sum[start:end, start:end] @ own
            total += float(np.einsum("kn,kn->", product, own, dtype=np.float64))
        return total


class Rounder:
    """Rounds the weights of layers that read the same activations.

    The factorization is made once; output channels do not depend on each other, so that a wide
    layer may come in parts.
    """

    def __init__(self, hessian: Hessian, *, damping: float, act_order: bool) -> None:
        """Factorize.

        Args:
            hessian: second moments of the activations.
            damping: share of the mean of the diagonal that is added to the diagonal.
            act_order: round features of large activations first.

        Raises:
            numpy.linalg.LinAlgError: the moments cannot be factorized even with more damping.
        """
        diagonal = hessian.sum.diagonal()
        features = len(diagonal)
        self._order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(features)
        self._dead = diagonal[self._order] == 0
        self._upper = _inverse_factor(hessian.sum, self._order, self._dead, damping)

    def round(self, matrix: Matrix, grid: Grid) -> Integers:
        """Integers of a grid, int8[K, N], for weights float32[K, N]; neither is changed."""
        weights = np.ascontiguousarray(matrix[self._order], dtype=np.float32)
        weights[self._dead] = 0
        scales = np.broadcast_to(grid.scale_of_rows(len(matrix)), matrix.shape)[self._order]
        integers = np.empty(matrix.shape, np.int8)
        for start in range(0, len(weights), _BLOCK):
            end = min(start + _BLOCK, len(weights))
            errors = _round_block(weights, integers, scales, self._upper, grid, start, end)
            weights[end:] -= self._upper[start:end, end:].T @ errors
        restored = np.empty_like(integers)
        restored[self._order] = integers
        return restored


def _round_block(
    weights: Matrix,
    integers: Integers,
    scales: Matrix,
    upper: Square,
    grid: Grid,
    start: int,
    end: int,
) -> Matrix:
    """Round some features one after the other; give the errors, for the features behind."""
    low, high = grid.bounds
    errors = np.empty((end - start, weights.shape[1]), np.float32)
    for index in range(start, end):
        rounded = np.rint(weights[index] / scales[index]).clip(low, high)
        integers[index] = rounded
        error = (weights[index] - rounded * scales[index]) / upper[index, index]
        errors[index - start] = error
        if index + 1 < end:
            weights[index + 1 : end] -= np.outer(upper[index, index + 1 : end], error)
    return errors


def _inverse_factor(
    moments: Square, order: npt.NDArray[np.intp], dead: npt.NDArray[np.bool_], damping: float
) -> Square:
    """The upper Cholesky factor of the inverse, with as little damping as lets it exist.

    At the size of a feed-forward layer each copy counts: beside the moments there is one matrix in
    float64 and, as that is done with, the factor.
    """
    diagonal = moments.diagonal()[order]
    diagonal[dead] = 1
    step = float(diagonal.mean())
    added = 0.0
    # With the features reversed, H = L Lᵀ gives H⁻¹ = UᵀU without a second factorization.
    backwards = order[::-1]
    for attempt in range(_ATTEMPTS):
        wanted = max(damping, 1e-4) * 10**attempt * step
        diagonal += np.float32(wanted - added)
        added = wanted
        lower = _permuted(moments, backwards)
        np.fill_diagonal(lower, diagonal[::-1])
        try:
            _factorize(lower)
        except np.linalg.LinAlgError:
            continue
        upper = lower[::-1, ::-1].astype(np.float32, order="C")
        del lower
        _invert_upper(upper)
        return upper
    raise np.linalg.LinAlgError("the second moments of its activations cannot be factorized")


def _permuted(moments: Square, order: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Rows and columns in another order, in float64."""
    permuted = np.empty(moments.shape, np.float64)
    for start in range(0, len(order), _BLOCK):
        rows = order[start : start + _BLOCK]
        permuted[start : start + _BLOCK] = moments[np.ix_(rows, order)]
    return permuted


def _factorize(matrix: npt.NDArray[np.float64]) -> None:
    """The Cholesky factor in place of the matrix's lower triangle, some columns at a time.

    numpy's own makes three copies. What is above the diagonal is not read, and has no meaning.

    Raises:
        numpy.linalg.LinAlgError: the matrix is not positive definite.
    """
    for start in range(0, len(matrix), _BLOCK):
        columns = slice(start, start + _BLOCK)
        before = matrix[start:, :start]
        panel = matrix[start:, columns]
        panel -= before @ before[:_BLOCK].T
        corner = np.linalg.cholesky(panel[:_BLOCK])
        panel[:_BLOCK] = corner
        panel[_BLOCK:] = panel[_BLOCK:] @ np.linalg.inv(corner).T


def _invert_upper(matrix: Square) -> None:
    """Invert an upper triangular matrix in its place, by halves; what is below becomes zero."""
    size = len(matrix)
    if size <= _BLOCK:
        matrix[:] = np.linalg.inv(np.triu(matrix))
        return
    half = size // 2
    first, last, corner = matrix[:half, :half], matrix[half:, half:], matrix[:half, half:]
    _invert_upper(first)
    _invert_upper(last)
    corner[:] = -(first @ corner) @ last
    matrix[half:, :half] = 0
