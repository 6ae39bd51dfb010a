"""The pass ``quantize-static``: 8-bit dense layers whose ranges come from calibration data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, Module

from .matching import is_op
from .pass_base import Numerics, Pass
from .pass_context import ActivationWalk
from .quantization.dense_layers import DenseLayer, Matrix, dense_layers, layers_by_input
from .quantization.ranges import METHODS, Activations, activation_range
from .quantization.rounding import bits_of_machine, round_columns
from .rewriter import GraphBuilder, Rewriter

_RULE = "quantize-static"
_ATTENTION = "VarlenAttention"
_NOT_PACKED = "attention=true rounds packed attention, and nothing packed this one"
_FEW_TOKENS = 64
_LEVELS, _SYMMETRIC_LEVELS = 255, 127


@dataclasses.dataclass(frozen=True)
class QuantizeStaticOptions:
    """Options of ``quantize-static``.

    Attributes:
        method: how ranges come from the data: ``minmax``, ``percentile`` or ``entropy``.
        percentile: for that method, the share in percent of numbers within the range.
        smooth: strength of SmoothQuant, 0 to 1, typically 0.5 to 0.7; 0 leaves it out.
        weight_bits: 8; 7 for processors whose products saturate; 0 takes what this machine's can.
        attention: also round queries and keys of packed attention to 8 bits, for the target
            ``openvino``, which then multiplies integers there too; others leave them in float32.
        exclude: layers to leave in float32, as patterns of their names separated by ``|``.
    """

    method: str = "minmax"
    percentile: float = 99.99
    smooth: float = 0.0
    weight_bits: int = 0
    attention: bool = False
    exclude: str = ""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is out of range.
        """
        if self.method not in METHODS:
            raise ValueError(f"method expects one of {', '.join(METHODS)}, got {self.method!r}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile expects more than 50, to 100, got {self.percentile}")
        if not 0 <= self.smooth <= 1:
            raise ValueError(f"smooth expects a strength from 0 to 1, got {self.smooth}")
        if self.weight_bits not in (0, 7, 8):
            raise ValueError(f"weight_bits expects 0, 7 or 8, got {self.weight_bits}")


class QuantizeStatic(Pass):
    """Multiply integers of 8 bits in dense layers; one range for each activation, known before.

    The result is in ONNX's standard form of ``QuantizeLinear`` and ``DequantizeLinear``. Ranges
    are taken from the graph as it stands, layer by layer, behind layers that are quantized
    already; after ``remove-padding`` no padding is in them. A value whose range on the data is
    empty, or is not finite, leaves its layers in float32. ``smooth`` divides each
    input feature by a factor that the weights take up, so that features of large activations do
    not cost the others their precision (SmoothQuant, Xiao et al., ICML 2023, equation 4).

    Before::

        before (float[T,2] x) => (float[T,1] y) <float[2,1] w = {127, -64}>
        {
            y = MatMul (x, w)
        }

    After, where the data covers -4 .. 4::

        after (float[T,2] x) => (float[T,1] y)
        <float scale = {0.03137255}, uint8 zero = {127}, int8[2,1] w = {127, -64},
         float[1] w_scale = {1}>
        {
            q = QuantizeLinear (x, scale, zero)
            rounded = DequantizeLinear (q, scale, zero)
            restored = DequantizeLinear <axis = 1> (w, w_scale)
            y = MatMul (rounded, restored)
        }
    """

    name = "quantize-static"
    numerics = Numerics.APPROXIMATE
    after = ("fold-constants", "remove-padding", "merge-qkv", "fold-attention-bias")
    options_type = QuantizeStaticOptions

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """In order of the graph; layers that read the same value share its range."""
        layers = layers_by_input(dense_layers(module, rewriter, _RULE, self.options.exclude))
        readers = {group[0].node: group for group in layers}
        walk = rewriter.context.calibration_for(self.name).walk(module)
        tokens = []
        for node in list(module.graph):
            if node in readers:
                tokens.append(self._quantize(readers[node], walk, rewriter))
            elif self.options.attention and node.domain == DOMAIN and node.op_type == _ATTENTION:
                self._round_scores(node, walk, rewriter)
            elif self.options.attention and is_op(node, "Attention"):
                rewriter.miss(_RULE, node, _NOT_PACKED)
        if tokens and max(tokens) < _FEW_TOKENS:
            rewriter.note(
                f"{_RULE}: the calibration data has {max(tokens)} tokens; what goes beyond their "
                "ranges is clipped: give some hundred"
            )

    def _round_scores(self, attention: ir.Node, walk: ActivationWalk, rewriter: Rewriter) -> None:
        """Round queries and keys, whose products the scores are, on both sides of zero alike."""
        operands = [value for value in attention.inputs[:2] if value is not None]
        seen: dict[str, list[Activations]] = {value.name or "": [] for value in operands}
        for batch in walk.advance(operands):
            for name, arrays in seen.items():
                arrays.append(np.array(batch[name], np.float32))
        activations = [np.concatenate(arrays) for arrays in seen.values()]
        reason = next(filter(None, map(_reason_against, activations)), None)
        if reason is not None:
            rewriter.miss(_RULE, attention, reason)
            return
        with rewriter.rewrite(_RULE, [attention]) as builder:
            rounded = [
                _round(x, self._symmetric_scale(array), np.array(0, np.int8), builder)
                for x, array in zip(operands, activations, strict=True)
            ]
            attributes = {name: attribute.value for name, attribute in attention.attributes.items()}
            inputs = [*rounded, *attention.inputs[2:]]
            context = builder.op(_ATTENTION, inputs, attributes, domain=DOMAIN)
            builder.replace(attention.outputs[0], context)

    def _symmetric_scale(self, activations: Activations) -> Activations:
        """Scale of int8 with a zero point of zero, float32[]."""
        low, high = activation_range(activations, self.options.method, self.options.percentile)
        return np.array(max(-low, high) / _SYMMETRIC_LEVELS, np.float32)

    def _grid(self, activations: Activations) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point, float32[] and uint8[]."""
        low, high = activation_range(activations, self.options.method, self.options.percentile)
        scale = np.array((high - low) / _LEVELS, np.float32)
        return scale, np.array(np.clip(np.rint(-low / scale), 0, _LEVELS), np.uint8)

    def _quantize(
        self, layers: Sequence[DenseLayer], walk: ActivationWalk, rewriter: Rewriter
    ) -> int:
        """Quantize the layers that read one value; give the number of tokens seen."""
        x = layers[0].node.inputs[0]  # not that of before the attention ahead was rounded
        assert x is not None  # a dense layer has it
        name = x.name or ""
        seen = [
            np.array(batch[name]).reshape(-1, layers[0].sizes[0]) for batch in walk.advance([x])
        ]
        activations = np.concatenate(seen).astype(np.float32, copy=False)
        matrices = [layer.matrix() for layer in layers]
        factors = _smoothing(activations, matrices, self.options.smooth)
        reason = _reason_against(activations)
        if reason is not None:
            for layer in layers:
                rewriter.miss(_RULE, layer.node, reason)
            return len(activations)
        scale, zero_point = self._grid(activations / factors)
        rounded: ir.Value | None = None
        for layer, matrix in zip(layers, matrices, strict=True):
            with rewriter.rewrite(_RULE, [layer.node]) as builder:
                if rounded is None:
                    smoothed = _divide(x, factors, builder)
                    rounded = _round(smoothed, scale, zero_point, builder)
                bits = bits_of_machine(self.options.weight_bits, rewriter.context)
                _multiply(layer, rounded, matrix * factors[:, None], bits, builder)
        return len(activations)


def _smoothing(
    activations: Activations, matrices: Sequence[Matrix], strength: float
) -> Activations:
    """What each input feature is divided by, float32[K]; ones without SmoothQuant."""
    features = activations.shape[1]
    if strength == 0 or not len(activations):
        return np.ones(features, np.float32)
    of_inputs = np.abs(activations).max(axis=0)
    of_weights = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
    with np.errstate(all="ignore"):
        factors = of_inputs**strength / of_weights ** (1 - strength)
    usable = np.isfinite(factors) & (factors > 0)
    return np.where(usable, factors, 1).astype(np.float32)


def _reason_against(activations: Activations) -> str | None:
    if not np.isfinite(activations).all():
        return "its activations on the calibration data are not finite"
    if not activations.any():
        return "its activations on the calibration data are all zero: no range can be made"
    return None


def _divide(x: ir.Value, factors: Activations, builder: GraphBuilder) -> ir.Value:
    if np.all(factors == 1):
        return x
    return builder.op("Mul", [x, builder.constant(1 / factors, "smoothing")])


def _round(
    x: ir.Value, scale: Activations, zero_point: np.ndarray, builder: GraphBuilder
) -> ir.Value:
    grid = [builder.constant(scale, "scale"), builder.constant(zero_point, "zero_point")]
    quantized = builder.op("QuantizeLinear", [x, *grid])
    return builder.op("DequantizeLinear", [quantized, *grid])


def _multiply(
    layer: DenseLayer, rounded: ir.Value, matrix: Matrix, bits: int, builder: GraphBuilder
) -> None:
    integers, scale = round_columns(matrix, bits)
    name = layer.weight.name or "weight"
    operands = [builder.constant(integers, name), builder.constant(scale, f"{name}_scale")]
    restored = builder.op("DequantizeLinear", operands, {"axis": 1})
    y = builder.op("MatMul", [rounded, restored])
    if layer.bias is not None:
        y = builder.op("Add", [y, layer.bias])
    builder.replace(layer.node.outputs[0], y)
