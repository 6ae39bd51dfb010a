"""Who computes a matrix product on a GPU: the vendor's library or a generated kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

Implementation = str
"""``library`` or ``generated``."""

ProductKey = tuple[int, int, str]
"""Columns of x, columns of the result, activation."""


@dataclasses.dataclass(frozen=True)
class ProductChoice:
    """Which implementation each dense layer takes.

    Attributes:
        default: for layers that ``measured`` does not name.
        measured: by layer, the faster one as it was measured on the target.
    """

    default: Implementation = "generated"
    measured: Mapping[ProductKey, Implementation] = dataclasses.field(default_factory=dict)

    def choose(self, inputs: int, outputs: int, activation: str) -> Implementation:
        """The implementation of one dense layer."""
        return self.measured.get((inputs, outputs, activation), self.default)
