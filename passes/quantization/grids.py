"""Grids of low-bit weights: a scale for each group of rows of each column, and rounding to it."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from .dense_layers import Matrix
from .rounding import Integers, Scales


@dataclasses.dataclass(frozen=True)
class Grid:
    """What integers stand for: ``scale * q`` within a range of ``q``.

    Attributes:
        bits: 2 to 8.
        group: rows (input features) that share a scale; 0 for all.
        scale: float32[number of groups, N].
    """

    bits: int
    group: int
    scale: Scales

    @classmethod
    def of(cls, matrix: Matrix, bits: int, group: int) -> Grid:
        """The grid by largest magnitudes, of a float32[K, N].

        For 3 bits and more it is symmetric: ``-7 .. 7`` for 4 (GLM-130B, ICLR 2023). With 2 bits
        that would leave three numbers of four; there the largest magnitude, whatever its sign,
        is -2, and the scale has a sign.
        """
        rows, columns = matrix.shape
        size = group or rows
        missing = -rows % size
        padded = np.pad(matrix, [(0, missing), (0, 0)]) if missing else matrix
        padded = padded.reshape(-1, size, columns)
        largest = np.maximum(padded.max(axis=1), -padded.min(axis=1))  # no copy, as abs makes
        if bits == 2:
            place = np.abs(padded).argmax(axis=1)
            signed = np.take_along_axis(padded, place[:, None], axis=1)[:, 0]
            scale = signed / np.float32(-2)
        else:
            scale = largest / np.float32((1 << (bits - 1)) - 1)
        return cls(bits, group, np.where(largest > 0, scale, 1).astype(np.float32))

    def columns(self, chosen: slice) -> Grid:
        """The grid of some output channels."""
        return dataclasses.replace(self, scale=self.scale[:, chosen])

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest integer."""
        if self.bits == 2:
            return -2, 1
        most = (1 << (self.bits - 1)) - 1
        return -most, most

    def scale_of_rows(self, rows: int) -> Scales:
        """The scale of each weight, float32[rows, N], or float32[1, N] if a column has one."""
        if self.group == 0:
            return self.scale
        return np.repeat(self.scale, self.group, axis=0)[:rows]

    def round(self, matrix: Matrix) -> Integers:
        """The nearest integers, int8[K, N]."""
        low, high = self.bounds
        integers = np.rint(matrix / self.scale_of_rows(len(matrix)))
        rounded: Integers = integers.clip(low, high).astype(np.int8)
        return rounded

    def restore(self, integers: npt.NDArray[np.int8]) -> Matrix:
        """What integers stand for, float32[K, N]."""
        return integers * self.scale_of_rows(len(integers))
