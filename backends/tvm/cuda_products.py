"""Dense layers on a GPU: by a kernel of ours, or by the vendor's library through torch."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from tvm import relax, tirx

from .emission import Array, Emission, Expr
from .kernels.activations import bias_gelu
from .kernels.dense import DenseShape, dense
from .library_calls import LINEAR
from .scheduled_calls import as_rows, call_scheduled, is_half, like_rows


def dense_layer(
    emission: Emission,
    x_value: ir.Value | None,
    weight_value: ir.Value | None,
    bias: Array | None,
    activation: str,
) -> Expr | None:
    """``activation(x weight + bias)`` with constant 16-bit weights, or None where it is declined.

    ``emission.products`` says who multiplies: ``library``, or ``generated``, our kernel for
    Hopper, which has the activation in its epilogue.
    """
    weight = emission.array(weight_value)
    if weight is None or weight.ndim != 2:
        return None
    x = emission.tensor(x_value)
    if not is_half(emission, x) or len(emission.shape(x)) < 2:
        return None
    inputs, outputs = weight.shape
    if bias is not None and bias.shape != (outputs,):
        return None
    if outputs % 8 or inputs % 8:
        return None
    rows = as_rows(emission, x)
    args = [rows, emission.tensor(weight_value)]
    args += [emission.constant(bias)] if bias is not None else []
    choice = emission.products.choose(inputs, outputs, activation)
    if choice == "library":
        result = _by_library(emission, args, outputs, activation)
    elif emission.arch == "sm_90" and inputs % 64 == 0 and outputs % 128 == 0:
        shape = DenseShape(
            inputs, outputs, emission.dtype(x), activation, has_bias=bias is not None
        )
        result = call_scheduled(
            emission, dense(shape), "dense", args, [_output(emission, rows, outputs)]
        )
    else:
        return None
    return like_rows(emission, result, [*emission.shape(x)[:-1], tirx.IntImm("int64", outputs)])


def _output(emission: Emission, rows: Expr, columns: int) -> tuple[tuple[Any, ...], str]:
    return (emission.shape(rows)[0], tirx.IntImm("int64", columns)), emission.dtype(rows)


def _by_library(emission: Emission, args: list[Expr], outputs: int, activation: str) -> Expr:
    output = _output(emission, args[0], outputs)
    kind = relax.TensorType(list(output[0]), output[1])
    product = emission.emit(relax.call_dps_packed(LINEAR, args, kind))
    if activation == "none":
        return product
    kernel = bias_gelu(outputs, output[1], has_bias=False, approximate=activation == "gelu_tanh")
    return call_scheduled(emission, kernel, "gelu", [product], [output])
