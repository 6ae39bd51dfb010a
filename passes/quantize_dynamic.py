"""The pass ``quantize-dynamic``: dense layers multiply 8-bit integers, scaled at run time."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from dechaff.ir import DOMAIN, Module

from .pass_base import Numerics, Pass
from .quantization.dense_layers import DenseLayer, dense_layers
from .quantization.rounding import bits_of_machine, round_columns
from .rewriter import GraphBuilder, Rewriter

_RULE = "quantize-dynamic"
_QUANTIZERS = {"token": "QuantizePerToken", "tensor": "QuantizePerTensor"}


@dataclasses.dataclass(frozen=True)
class QuantizeDynamicOptions:
    """Options of ``quantize-dynamic``.

    Attributes:
        activations: what shares a scale: ``token`` or ``tensor``.
        weight_bits: 8; 7 for processors whose products of 8-bit integers saturate; 0 takes what
            this machine's can.
        exclude: layers to leave in float32, as patterns of their names separated by ``|``.
    """

    activations: str = "token"
    weight_bits: int = 0
    exclude: str = ""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is out of range.
        """
        if self.activations not in _QUANTIZERS:
            raise ValueError(f"activations expects token or tensor, got {self.activations!r}")
        if self.weight_bits not in (0, 7, 8):
            raise ValueError(f"weight_bits expects 0, 7 or 8, got {self.weight_bits}")


class QuantizeDynamic(Pass):
    """Multiply integers of 8 bits in dense layers; activations get their scales at run time.

    Weights get a scale for each output channel, activations one for each token, so that no
    answer depends on what else is in the batch (``activations=tensor`` gives that up). After
    ``remove-padding`` no padding is quantized, nor enters a range. Layers that read the same value
    share its integers.

    Before::

        before (float[T,2] x) => (float[T,2] y, float[T,1] z)
        <float[2,2] w = {1, -2, 0.5, 4}, float[2,1] v = {1, -1}>
        {
            y = MatMul (x, w)
            z = MatMul (x, v)
        }

    After::

        after (float[T,2] x) => (float[T,2] y, float[T,1] z)
        <int8[2,2] w = {127, -64, 64, 127}, float[2] w_scale = {0.0078740157, 0.031496063},
            int8[2,1] v = {127, -127}, float[1] v_scale = {0.0078740157}>
        {
            q, scale = dechaff.QuantizePerToken (x)
            y = dechaff.QuantizedMatMul (q, scale, w, w_scale)
            z = dechaff.QuantizedMatMul (q, scale, v, v_scale)
        }
    """

    name = "quantize-dynamic"
    numerics = Numerics.APPROXIMATE
    after = ("fold-constants", "remove-padding", "merge-qkv", "fold-attention-bias")
    options_type = QuantizeDynamicOptions

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Start from each product with a constant matrix."""
        quantized: dict[ir.Value, tuple[ir.Value, ...]] = {}
        bits = bits_of_machine(self.options.weight_bits, rewriter.context)
        for layer in dense_layers(module, rewriter, _RULE, self.options.exclude):
            with rewriter.rewrite(_RULE, [layer.node]) as builder:
                if layer.x not in quantized:
                    quantizer = _QUANTIZERS[self.options.activations]
                    quantized[layer.x] = _quantize(layer.x, quantizer, builder)
                _multiply(layer, quantized[layer.x], bits, builder)


def _quantize(x: ir.Value, quantizer: str, builder: GraphBuilder) -> tuple[ir.Value, ...]:
    first = builder.op(quantizer, [x], domain=DOMAIN, num_outputs=2)
    maker = first.producer()
    assert maker is not None  # builder.op made it
    return tuple(maker.outputs)


def _multiply(
    layer: DenseLayer, quantized: tuple[ir.Value, ...], bits: int, builder: GraphBuilder
) -> None:
    integers, scale = round_columns(layer.matrix(), bits)
    name = layer.weight.name or "weight"
    operands = [
        *quantized,
        builder.constant(integers, name),
        builder.constant(scale, f"{name}_scale"),
    ]
    y = builder.op("QuantizedMatMul", operands, domain=DOMAIN)
    if layer.bias is not None:
        y = builder.op("Add", [y, layer.bias])
    builder.replace(layer.node.outputs[0], y)
