"""The pass ``quantize-weights``: dense layers keep their weights in 2 to 8 bits."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from dechaff.ir import Module, UsageError, unload_mapped

from .approximation import Approximation, Calibration, Edit
from .pass_context import PassContext
from .quantization.bit_allocation import (
    BITS,
    Sensitivity,
    allocate,
    assignment_text,
    measure_sensitivities,
    parse_assignment,
    trade_off,
)
from .quantization.dense_layers import DenseLayer, dense_layers, layers_by_input
from .quantization.grids import Grid
from .quantization.layer_rounding import GptqRounding, NearestRounding
from .quantization.rounding import Integers
from .quantization.storage import store_integers
from .quantization.tables import TABLE_BITS, quantize_tables
from .rewriter import Rewriter

_RULE = "quantize-weights"
_METHODS = ("rtn", "gptq")
_GROUPS = (0, 16, 32, 64, 128, 256)
_BITS = (2, 3, 4, 8)
_AVERAGES = (2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 4.0, 5.0, 6.0, 8.0)


@dataclasses.dataclass(frozen=True)
class QuantizeWeightsOptions:
    """Options of ``quantize-weights``.

    Attributes:
        bits: 8, 4, 3 or 2.
        group: input features that share a scale, 16 to 256; 0 for one scale per output channel.
        method: ``rtn`` rounds to nearest; ``gptq`` needs calibration data.
        act_order: for gptq, round features of large activations first.
        damping: for gptq, what is added to the Hessian's diagonal, as a share of its mean.
        exclude: layers to leave as they are, as patterns of their names separated by ``|``.
        average: mixed precision: 2, 3, 4 or 8 bits for each layer, this many in the mean, by
            what each does to the outputs on calibration data; 0 gives all layers ``bits``.
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
        errors: list[tuple[float, float]] = []
        for readers, prepare in self._roundings(module, layers, rewriter):
            rounding = prepare()
            for layer in readers:
                matrix = layer.matrix()
                grid = Grid.of(matrix, bits[layer], self.options.group)
                self._store(layer, grid, rounding.round(matrix, grid), rewriter)
                unload_mapped([layer.weight])
            if isinstance(rounding, GptqRounding):
                errors += rounding.errors
        _note_gain(errors, rewriter)

    def edits(self, module: Module, calibration: Calibration) -> Sequence[Edit]:
        """Assignments of bits to layers, the smallest first, by errors on the search's data."""
        rewriter = Rewriter(module, context=PassContext(calibration))
        layers = list(dense_layers(module, rewriter, _RULE, self.options.exclude))
        found = self._sensitivities(module, layers, rewriter)
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
            found = self._sensitivities(module, layers, rewriter)
            widths = allocate(found, options.average)
            chosen = dict(zip(layers, widths, strict=True))
            rewriter.note(f"{_RULE}: {trade_off(found, _AVERAGES)}")
            rewriter.note(f"{_RULE}: {options.average:g} bits are layers={assignment_text(widths)}")
        for index, width in parse_assignment(options.layers).items():
            if index >= len(layers):
                raise UsageError(
                    f"pass {self.name}: there is no layer {index}; the model has {len(layers)}"
                )
            chosen[layers[index]] = width
        return chosen

    def _sensitivities(
        self, module: Module, layers: Sequence[DenseLayer], rewriter: Rewriter
    ) -> list[Sensitivity]:
        """What each layer's width does to the outputs; measured once for a model and its data."""
        options, context = self.options, rewriter.context
        data = context.calibration_for(f"{self.name}{{average=...}}")

        def measure() -> list[dict[str, float]]:
            groups = self._roundings(module, layers, rewriter)
            found = measure_sensitivities(module, groups, data, options.group, context.report)
            return [{str(b): e for b, e in found[layer].errors.items()} for layer in layers]

        rounding = dataclasses.replace(options, bits=4, average=0.0, layers="")
        errors = data.measured(f"sensitivity to {self.name} {rounding}", module, measure)
        return [
            Sensitivity(math.prod(layer.sizes), {int(b): e for b, e in found.items()})
            for layer, found in zip(layers, errors, strict=True)
        ]

    def _roundings(
        self, module: Module, layers: Sequence[DenseLayer], rewriter: Rewriter
    ) -> list[tuple[Sequence[DenseLayer], Callable[[], NearestRounding | GptqRounding]]]:
        """Layers that read one value, in order of the graph, and what makes ready to round them."""
        groups = layers_by_input(layers)
        if self.options.method == "rtn":
            return [(readers, NearestRounding) for readers in groups]
        walk = rewriter.context.calibration_for(f"{self.name}{{method=gptq}}").walk(module)
        prepare = functools.partial(
            GptqRounding,
            walk=walk,
            rule=_RULE,
            rewriter=rewriter,
            damping=self.options.damping,
            act_order=self.options.act_order,
        )
        return [(readers, functools.partial(prepare, readers)) for readers in groups]

    def _store(self, layer: DenseLayer, grid: Grid, integers: Integers, rewriter: Rewriter) -> None:
        """A layer that multiplies with what the integers stand for."""
        name = layer.weight.name or "weight"
        per_channel = grid.group == 0
        attributes = {"axis": 1} if per_channel else {"axis": 0, "block_size": grid.group}
        scale = grid.scale[0] if per_channel else grid.scale
        with rewriter.rewrite(_RULE, [layer.node]) as builder:
            stored = store_integers(integers, grid.bits, name, builder)
            operands = [stored, builder.constant(scale, f"{name}_scale")]
            restored = builder.op("DequantizeLinear", operands, attributes)
            y = builder.op("MatMul", [layer.x, restored])
            if layer.bias is not None:
                y = builder.op("Add", [y, layer.bias])
            builder.replace(layer.node.outputs[0], y)


def _assign(options: QuantizeWeightsOptions, assignment: str) -> QuantizeWeightsOptions:
    return dataclasses.replace(options, layers=assignment)


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
