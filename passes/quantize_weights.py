"""The pass ``quantize-weights``: dense layers keep their weights in 2 to 8 bits."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from dechaff.ir import Module, UsageError

from .approximation import Approximation, Calibration, Edit
from .pass_context import ActivationWalk, CalibrationData
from .quantization.bit_allocation import (
    BITS,
    Sensitivity,
    allocate,
    assignment_text,
    measure_sensitivity,
    parse_assignment,
    total_error,
)
from .quantization.dense_layers import DenseLayer, Matrix, dense_layers, layers_by_input
from .quantization.gptq import Hessian, Rounder
from .quantization.grids import Grid
from .quantization.rounding import Integers
from .quantization.storage import packed_int4, plain
from .quantization.tables import TABLE_BITS, quantize_tables
from .rewriter import Rewriter

_RULE = "quantize-weights"
_METHODS = ("rtn", "gptq")
_GROUPS = (0, 16, 32, 64, 128, 256)
_BITS = (2, 3, 4, 8)
_AVERAGES = (2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
_COLUMNS = 4096
"""Output channels that GPTQ takes at a time: a bound on memory for wide layers."""


@dataclasses.dataclass(frozen=True)
class QuantizeWeightsOptions:
    """Options of ``quantize-weights``.

    Attributes:
        bits: 8, 4, 3 or 2; 3 and 2 are stored in 4.
        group: input features that share a scale, 16 to 256; 0 for one scale per output channel.
        method: ``rtn`` rounds to nearest; ``gptq`` needs calibration data.
        act_order: for gptq, round features of large activations first.
        damping: for gptq, what is added to the Hessian's diagonal, as a share of its mean.
        exclude: layers to leave as they are, as patterns of their names separated by ``|``.
        average: mixed precision: 2, 3, 4 or 8 bits for each layer, this many in the mean, by
            the layers' errors on the calibration data; 0 gives all layers ``bits``.
        layers: bits of single layers by their number in the graph, as in ``0:8+3:2``.
        embeddings: bits of tables of embeddings, 8 or 4; 0 leaves them in float32.
    """

    bits: int = 4
    group: int = 128
    method: str = "rtn"
    act_order: bool = True
    damping: float = 0.01
    exclude: str = ""
    average: float = 0.0
    layers: str = ""
    embeddings: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is out of range.
        """
        allowed = {
            "bits": _BITS,
            "group": _GROUPS,
            "method": _METHODS,
            "embeddings": TABLE_BITS,
        }
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                known = ", ".join(map(str, choices))
                raise ValueError(f"{name} expects one of {known}, got {getattr(self, name)!r}")
        if not 0 <= self.damping <= 1:
            raise ValueError(f"damping expects a share from 0 to 1, got {self.damping}")
        if self.average and not BITS[0] <= self.average <= BITS[-1]:
            raise ValueError(f"average expects 2 to 8 bits, or 0, got {self.average}")
        parse_assignment(self.layers)


class QuantizeWeights(Approximation):
    """Store the weights of dense layers in few bits.

    Groups of input features of each output channel share a scale, by their largest magnitude
    (GLM-130B, ICLR 2023, for the whole channel; 2 bits use a signed scale, that all four numbers
    serve). ``method=gptq`` chooses the integers by the calibration data, layer by layer: each is
    given the activations that the quantized layers before it produce (Frantar et al., ICLR 2023).
    Where it does no better than rounding on that data, the rounded integers stay. ``average`` gives
    sensitive layers more bits than others; a search over a metric tries such assignments itself.

    Before::

        before (float[T,2] x) => (float[T,1] y) <float[2,1] w = {7, -3}>
        {
            y = MatMul (x, w)
        }

    After (the text form writes two int4 as the byte that they share, 7 and -3 as 0xD7)::

        after (float[T,2] x) => (float[T,1] y) <int4[2,1] w = {215}, float[1,1] scale = {1}>
        {
            restored = DequantizeLinear <axis = 0, block_size = 128> (w, scale)
            y = MatMul (x, restored)
        }
    """

    name = "quantize-weights"
    after = ("fold-constants", "remove-padding", "merge-qkv", "fold-attention-bias")
    options_type = QuantizeWeightsOptions
    levels = ("mean bits",)

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Tables, and layers in order of the graph; readers of one value are taken together."""
        if self.options.embeddings:
            quantize_tables(module, self.options.embeddings, self.options.group, rewriter)
        layers = list(dense_layers(module, rewriter, _RULE, self.options.exclude))
        bits = self._bits(module, layers, rewriter)
        if self.options.method == "rtn":
            for layer in layers:
                matrix = layer.matrix()
                grid = Grid.of(matrix, bits[layer], self.options.group)
                self._store(layer, grid, grid.round(matrix), rewriter)
            return
        walk = rewriter.context.calibration_for(f"{self.name}{{method=gptq}}").walk(module)
        errors = [
            pair
            for readers in layers_by_input(layers)
            for pair in self._optimize(readers, bits, walk, rewriter)
        ]
        _note_gain(errors, rewriter)

    def edits(self, module: Module, calibration: Calibration) -> Sequence[Edit]:
        """Assignments of bits to layers, the smallest first, by errors on the search's data."""
        layers = list(dense_layers(module, Rewriter(module), _RULE, self.options.exclude))
        hessians = _hessians_by_name(layers, calibration, module)
        found = [
            measure_sensitivity(layer, hessians[layer.x.name or ""], self.options.group)
            for layer in layers
        ]
        return [
            Edit(
                f"{average:g} bits",
                0,
                functools.partial(_assign, assignment=assignment_text(allocate(found, average))),
                place="bits",
            )
            for average in _AVERAGES
        ]

    def _bits(
        self, module: Module, layers: Sequence[DenseLayer], rewriter: Rewriter
    ) -> dict[DenseLayer, int]:
        """Bits of each layer by the options."""
        options = self.options
        chosen = dict.fromkeys(layers, options.bits)
        if options.average:
            data = rewriter.context.calibration_for(f"{self.name}{{average=...}}")
            found = _measure(module, layers, data, options.group)
            widths = allocate([found[layer] for layer in layers], options.average)
            chosen = dict(zip(layers, widths, strict=True))
            rewriter.note(_trade_off(list(found.values())))
        for index, width in parse_assignment(options.layers).items():
            if index >= len(layers):
                raise UsageError(
                    f"pass {self.name}: there is no layer {index}; the model has {len(layers)}"
                )
            chosen[layers[index]] = width
        return chosen

    def _optimize(
        self,
        layers: Sequence[DenseLayer],
        bits: Mapping[DenseLayer, int],
        walk: ActivationWalk,
        rewriter: Rewriter,
    ) -> list[tuple[float, float]]:
        """GPTQ on layers that read one value; the errors of rounding and of what was stored."""
        x = layers[0].x
        hessian = Hessian(layers[0].sizes[0])
        for batch in walk.advance([x]):
            hessian.add(batch[x.name or ""])
        rounder = self._rounder(hessian, layers, rewriter)
        errors: list[tuple[float, float]] = []
        for layer in layers:
            matrix = layer.matrix()
            grid = Grid.of(matrix, bits[layer], self.options.group)
            integers = np.empty(matrix.shape, np.int8)
            for start in range(0, matrix.shape[1], _COLUMNS):
                part = slice(start, start + _COLUMNS)
                columns = np.ascontiguousarray(matrix[:, part])
                integers[:, part], pair = _choose(columns, grid.columns(part), hessian, rounder)
                errors.append(pair)
            self._store(layer, grid, integers, rewriter)
        return errors

    def _rounder(
        self, hessian: Hessian, layers: Sequence[DenseLayer], rewriter: Rewriter
    ) -> Rounder | None:
        """What rounds by the activations; None if these are of no use, and why is told."""
        reason = "its activations on the calibration data are not finite"
        if np.isfinite(hessian.sum).all():
            options = self.options
            try:
                return Rounder(hessian, damping=options.damping, act_order=options.act_order)
            except np.linalg.LinAlgError as error:
                reason = str(error)
        for layer in layers:
            rewriter.miss(_RULE, layer.node, f"{reason}: it is rounded to nearest")
        return None

    def _store(self, layer: DenseLayer, grid: Grid, integers: Integers, rewriter: Rewriter) -> None:
        """A layer that multiplies with what the integers stand for."""
        name = layer.weight.name or "weight"
        per_channel = grid.group == 0
        attributes = {"axis": 1} if per_channel else {"axis": 0, "block_size": grid.group}
        stored = plain(integers) if grid.bits == 8 else packed_int4(integers)
        scale = grid.scale[0] if per_channel else grid.scale
        with rewriter.rewrite(_RULE, [layer.node]) as builder:
            operands = [builder.tensor(stored, name), builder.constant(scale, f"{name}_scale")]
            restored = builder.op("DequantizeLinear", operands, attributes)
            y = builder.op("MatMul", [layer.x, restored])
            if layer.bias is not None:
                y = builder.op("Add", [y, layer.bias])
            builder.replace(layer.node.outputs[0], y)


def _assign(options: QuantizeWeightsOptions, assignment: str) -> QuantizeWeightsOptions:
    return dataclasses.replace(options, layers=assignment)


def _measure(
    module: Module, layers: Sequence[DenseLayer], data: CalibrationData, group: int
) -> dict[DenseLayer, Sensitivity]:
    """The errors of each layer at each width, on activations of the unquantized model."""
    walk = data.walk(module)
    found: dict[DenseLayer, Sensitivity] = {}
    for readers in layers_by_input(layers):
        hessian = Hessian(readers[0].sizes[0])
        for batch in walk.advance([readers[0].x]):
            hessian.add(batch[readers[0].x.name or ""])
        for layer in readers:
            found[layer] = measure_sensitivity(layer, hessian, group)
    return {layer: found[layer] for layer in layers}


def _hessians_by_name(
    layers: Sequence[DenseLayer], calibration: Calibration, module: Module
) -> dict[str, Hessian]:
    hessians = {layer.x.name or "": Hessian(layer.sizes[0]) for layer in layers}
    for batch in calibration.values(module, list(hessians)):
        for name, hessian in hessians.items():
            hessian.add(batch[name])
    return hessians


def _trade_off(found: Sequence[Sensitivity]) -> str:
    """Errors by mean width, of mixed precision and of one width for all."""
    mixed = [
        f"{average:g} bits {total_error(found, allocate(found, average)):.3g}"
        for average in _AVERAGES
    ]
    uniform = [f"{bits} bits {total_error(found, [bits] * len(found)):.3g}" for bits in BITS]
    return (
        f"{_RULE}: sum of the layers' relative output errors, mixed: {', '.join(mixed)}; "
        f"one width for all: {', '.join(uniform)}"
    )


def _choose(
    matrix: Matrix, grid: Grid, hessian: Hessian, rounder: Rounder | None
) -> tuple[Integers, tuple[float, float]]:
    """The better of GPTQ and rounding to nearest, and the errors of rounding and of the better."""
    rounded = grid.round(matrix)
    if rounder is None:
        return rounded, (0.0, 0.0)
    rounding_error = hessian.error(grid.restore(rounded) - matrix)
    chosen = rounder.round(matrix, grid)
    chosen_error = hessian.error(grid.restore(chosen) - matrix)
    if not chosen_error < rounding_error:
        return rounded, (rounding_error, rounding_error)
    return chosen, (rounding_error, chosen_error)


def _note_gain(errors: Sequence[tuple[float, float]], rewriter: Rewriter) -> None:
    shares = sorted((after / before) ** 0.5 for before, after in errors if before > 0)
    if not shares:
        return
    median = shares[len(shares) // 2]
    rewriter.note(
        f"{_RULE}: GPTQ leaves {median:.0%} of the output error of rounding to nearest "
        f"(median over layers on the calibration data; "
        f"best {shares[0]:.0%}, worst {shares[-1]:.0%})"
    )
