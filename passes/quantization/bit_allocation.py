"""Mixed precision: which layer gets how many bits, by the error that each makes with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .dense_layers import DenseLayer
from .gptq import Hessian
from .grids import Grid

BITS = (2, 3, 4, 8)
"""Widths to choose from, ascending."""


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What a layer's width costs and saves.

    Attributes:
        weights: number of weights.
        errors: by number of bits, the squared output error of rounding to nearest on the data, as
            a share of the squared output.
    """

    weights: int
    errors: Mapping[int, float]


def measure_sensitivity(layer: DenseLayer, hessian: Hessian, group: int) -> Sensitivity:
    """The errors of a layer at each width."""
    matrix = np.ascontiguousarray(layer.matrix())
    output = hessian.error(matrix)
    errors: dict[int, float] = {}
    for bits in BITS:
        grid = Grid.of(matrix, bits, group)
        errors[bits] = hessian.error(grid.restore(grid.round(matrix)) - matrix) / (output or 1.0)
    return Sensitivity(matrix.size, errors)


def allocate(sensitivities: Sequence[Sensitivity], average: float) -> list[int]:
    """Bits for each layer, so that errors sum to little and the mean width is at most ``average``.

    Widths are raised from the narrowest, where a bit more of storage removes most error.
    """
    chosen = [BITS[0]] * len(sensitivities)
    budget = average * sum(item.weights for item in sensitivities)
    spent = float(BITS[0] * sum(item.weights for item in sensitivities))
    while True:
        raises = [
            ((item.errors[have] - item.errors[wider]) / cost, index, wider, cost)
            for index, (item, have) in enumerate(zip(sensitivities, chosen, strict=True))
            for wider in BITS
            if wider > have and spent + (cost := (wider - have) * item.weights) <= budget
        ]
        if not raises:
            return chosen
        _, index, wider, cost = max(raises, key=lambda item: item[:2])
        chosen[index] = wider
        spent += cost


def total_error(sensitivities: Iterable[Sensitivity], bits: Iterable[int]) -> float:
    """The sum of the layers' errors at given widths."""
    pairs = zip(sensitivities, bits, strict=True)
    return sum(item.errors[width] for item, width in pairs)


def assignment_text(bits: Sequence[int]) -> str:
    """As the option ``layers`` is written: ``0:8+1:4``."""
    return "+".join(f"{index}:{width}" for index, width in enumerate(bits))


def parse_assignment(text: str) -> dict[int, int]:
    """Bits by the layer's number.

    Raises:
        ValueError: the text cannot be read, or names a width that there is not.
    """
    chosen: dict[int, int] = {}
    for part in filter(None, text.split("+")):
        index, separator, width = part.partition(":")
        if not separator or not index.isdigit() or not width.isdigit() or int(width) not in BITS:
            known = ", ".join(map(str, BITS))
            raise ValueError(f"layers expects NUMBER:BITS joined by +, bits {known}; got {part!r}")
        chosen[int(index)] = int(width)
    return chosen
