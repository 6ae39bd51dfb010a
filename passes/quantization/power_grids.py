"""Grids of blockwise compression: blocks of weights whose scale is a power of two."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from .dense_layers import Matrix
from .grids import Grid

Exponents = npt.NDArray[np.int8]

_TRIED = (0, 1, 2)
"""How many powers of two below the one that clips nothing; a lower one clips what is large."""


@dataclasses.dataclass(frozen=True)
class PowerGrid(Grid):
    """A grid of scales ``2**e``, all of the integers' range used: ``-8 .. 7`` for 4 bits."""

    @classmethod
    def of(cls, matrix: Matrix, bits: int, group: int) -> PowerGrid:
        """The grid of least squared error, of a float32[K, N].

        Of the exponents that clip nothing or little, each block takes the one that leaves least:
        at 4 bits it pays to clip the largest weights for a finer step (SQNR +2 dB).
        """
        rows, columns = matrix.shape
        size = group or rows
        blocks = np.pad(matrix, [(0, -rows % size), (0, 0)]).reshape(-1, size, columns)
        top = (1 << (bits - 1)) - 1
        largest = np.abs(blocks).max(axis=1)
        with np.errstate(divide="ignore"):
            highest = np.ceil(np.log2(largest / np.float32(top)))
        highest = np.maximum(highest, -100)
        used = highest[largest > 0]
        highest = np.where(largest > 0, highest, used.min() if used.size else 0)
        exponent, error = highest, np.full(highest.shape, np.inf)
        for lowered in _TRIED:
            scale = np.exp2(highest - lowered).astype(np.float32)[:, None]
            rounded = np.rint(blocks / scale).clip(-top - 1, top) * scale
            found = np.square(rounded - blocks).sum(axis=1)
            exponent = np.where(found < error, highest - lowered, exponent)
            error = np.minimum(found, error)
        return cls(bits, group, np.exp2(exponent).astype(np.float32))

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        top = (1 << (self.bits - 1)) - 1
        return -top - 1, top

    @property
    def exponents(self) -> Exponents:
        """int8[number of groups, N]."""
        return np.log2(self.scale).astype(np.int8)
