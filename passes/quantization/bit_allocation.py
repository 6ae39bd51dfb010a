"""Mixed precision: which layer gets how many bits, by what its bits do to the model's outputs.

The error that a layer makes in its own output says little of what comes out in the end: a model of
MiniLM's size forgives the last layers a hundred times what it forgives the first. So each layer is
rounded alone, and the outputs of the whole model are compared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from dechaff.ir import Module
from dechaff.passes.pass_context import CalibrationData

from .dense_layers import DenseLayer, Matrix
from .grids import Grid
from .rounding import Integers, largest_level

BITS = (2, 3, 4, 8)
"""Widths to choose from, ascending."""
_MEASURED = BITS[:2]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What a layer's width costs and saves.

    Attributes:
        weights: number of weights.
        errors: by number of bits, the squared change of the model's outputs on the data with this
            layer alone rounded, as a share of their squares; more bits never have more of it.
    """

    weights: int
    errors: Mapping[int, float]


class Rounding(Protocol):
    """Chooses the integers of layers that read one value."""

    def round(self, matrix: Matrix, grid: Grid) -> Integers:
        """Integers of a grid, int8[K, N], for weights float32[K, N]."""
        ...


def measure_sensitivities(
    module: Module,
    groups: Sequence[tuple[Sequence[DenseLayer], Callable[[], Rounding]]],
    data: CalibrationData,
    group: int,
    report: Callable[[str], None],
) -> dict[DenseLayer, Sensitivity]:
    """Round each layer alone to each width, and compare the outputs of the model.

    Args:
        module: the module; it is not changed.
        groups: layers that read one value, in order of the graph, and what makes ready to round.
        data: calibration data.
        group: input features that share a scale.
        report: is told of the progress.
    """
    layers = [layer for readers, _ in groups for layer in readers]
    trials = data.trials(module, [layer.weight for layer in layers])
    found: dict[DenseLayer, Sensitivity] = {}
    for readers, prepare in groups:
        rounding = prepare()
        for layer in readers:
            report(f"sensitivity of layer {len(found) + 1} of {len(layers)}")
            matrix = np.ascontiguousarray(layer.matrix())
            errors = {
                bits: trials.error({layer.weight: _as_stored(layer, restored)})
                for bits, restored in _roundings(matrix, group, rounding)
            }
            found[layer] = Sensitivity(matrix.size, _at_all_widths(errors))
    return found


def _roundings(matrix: Matrix, group: int, rounding: Rounding) -> Iterator[tuple[int, Matrix]]:
    for bits in _MEASURED:
        grid = Grid.of(matrix, bits, group)
        yield bits, grid.restore(rounding.round(matrix, grid))


def _as_stored(layer: DenseLayer, matrix: Matrix) -> Matrix:
    return np.ascontiguousarray(matrix.T if layer.transposed else matrix)


def _at_all_widths(measured: Mapping[int, float]) -> dict[int, float]:
    """Errors that fall as bits grow; those of wide layers, too small to tell apart, by the rule.

    The more levels, the smaller the step between them, and errors go with its square.
    """
    last, errors, least = _MEASURED[-1], dict[int, float](), math.inf
    for bits in BITS:
        share = (largest_level(last) / largest_level(bits)) ** 2
        errors[bits] = least = min(least, measured.get(bits, share * measured[last]))
    return errors


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
        gain, index, wider, cost = max(raises, default=(0.0, 0, 0, 0))
        if gain <= 0:
            return chosen
        chosen[index] = wider
        spent += cost


def total_error(sensitivities: Iterable[Sensitivity], bits: Iterable[int]) -> float:
    """The sum of the layers' errors at given widths."""
    pairs = zip(sensitivities, bits, strict=True)
    return sum(item.errors[width] for item, width in pairs)


def trade_off(sensitivities: Sequence[Sensitivity], averages: Iterable[float]) -> str:
    """Errors by mean width, of mixed precision and of one width for all."""
    count = len(sensitivities)
    mixed = [(f"{each:g}", allocate(sensitivities, each)) for each in averages]
    uniform = [(f"{bits}", [bits] * count) for bits in BITS]
    mixed_text, uniform_text = (
        ", ".join(f"{name} bits {total_error(sensitivities, bits):.2g}" for name, bits in choices)
        for choices in (mixed, uniform)
    )
    return (
        "squared error of the outputs, summed over layers rounded alone, mixed: "
        f"{mixed_text}; one width for all: {uniform_text}"
    )


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
