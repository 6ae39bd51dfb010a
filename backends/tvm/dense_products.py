"""Dense layers with constant weights: by a kernel of ours, or by a library."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from tvm import relax, tirx

from . import cutlass_products
from .elementwise_emitters import gelu
from .emission import Array, Emission, Expr, attribute
from .kernels.activations import bias_gelu
from .kernels.dense import DenseShape, dense
from .library_calls import LINEAR, LINEAR_GELU
from .product_choice import Product
from .scheduled_calls import as_rows, call_scheduled, like_rows

_DTYPES = {"cuda": ("float16", "bfloat16"), "llvm": ("float32",)}


def dense_layer(
    emission: Emission,
    x_value: ir.Value | None,
    weight_value: ir.Value | None,
    bias: Array | None,
    activation: str,
) -> Expr | None:
    """``activation(x weight + bias)`` with constant weights, or None where it is declined.

    ``emission.products`` says who multiplies: ``library``, or ``generated``. Generated is our
    kernel for Hopper, which has the activation in its epilogue, where it serves; else the layer is
    declined, and TVM's schedules take it.
    """
    weight = emission.array(weight_value)
    if weight is None or weight.ndim != 2:
        return None
    x = emission.tensor(x_value)
    dtype = emission.dtype(x)
    if dtype not in _DTYPES[emission.target] or len(emission.shape(x)) < 2:
        return None
    inputs, outputs = weight.shape
    if bias is not None and bias.shape != (outputs,):
        return None
    if emission.target == "cuda" and (outputs % 8 or inputs % 8):
        return None
    product = Product(inputs, outputs, activation, bias is not None, dtype)
    # A layer is met at each of its nodes, the whole of it at the last.
    emission.dense_layers[x_value, weight_value] = (product, emission.shape(x)[:-1])
    by_library = emission.products.choose(product) == "library"
    on_hopper = emission.arch == "sm_90" and inputs % 64 == 0 and outputs % 128 == 0
    if not by_library and not on_hopper:
        return None
    args = [as_rows(emission, x), emission.tensor(weight_value)]
    args += [emission.constant(bias)] if bias is not None else []
    call = _by_library if by_library else _by_kernel
    result = call(emission, args, product)
    return like_rows(emission, result, [*emission.shape(x)[:-1], tirx.IntImm("int64", outputs)])


def _output(emission: Emission, rows: Expr, columns: int) -> tuple[tuple[Any, ...], str]:
    return (emission.shape(rows)[0], tirx.IntImm("int64", columns)), emission.dtype(rows)


def _by_kernel(emission: Emission, args: list[Expr], product: Product) -> Expr:
    shape = DenseShape(
        product.inputs,
        product.outputs,
        product.dtype,
        product.activation,
        has_bias=product.has_bias,
    )
    output = _output(emission, args[0], product.outputs)
    return call_scheduled(emission, dense(shape), "dense", args, [output])


def _by_library(emission: Emission, args: list[Expr], product: Product) -> Expr:
    """The product by the library; on a CPU what follows it is one generated kernel."""
    output = _output(emission, args[0], product.outputs)
    kind = relax.TensorType(list(output[0]), output[1])
    if emission.target == "llvm":
        result = emission.emit(relax.call_dps_packed(LINEAR, args[:2], kind))
        if product.has_bias:
            result = emission.emit(relax.op.add(result, args[2]))
        if product.activation == "none":
            return result
        approximate = "tanh" if product.activation == "gelu_tanh" else "none"
        return emission.emit(gelu(emission, result, approximate))
    if product.has_bias and _has_fused_gelu(emission, product):
        return emission.emit(relax.call_dps_packed(LINEAR_GELU[product.activation], args, kind))
    result = emission.emit(relax.call_dps_packed(LINEAR, args, kind))
    if product.activation == "none":
        return result
    approximated = product.activation == "gelu_tanh"
    kernel = bias_gelu(product.outputs, output[1], has_bias=False, approximate=approximated)
    return call_scheduled(emission, kernel, "gelu", [result], [output])


def _has_fused_gelu(emission: Emission, product: Product) -> bool:
    """Whether CUTLASS computes product, bias and GELU in one pass; it is compiled if need be."""
    if product.activation not in LINEAR_GELU or emission.arch != "sm_90":
        return False
    return cutlass_products.compile_library(product.dtype, product.activation) is not None


def provide_mat_mul(emission: Emission, node: ir.Node) -> Expr | None:
    """``MatMul`` with constant weights."""
    return dense_layer(emission, node.inputs[0], node.inputs[1], None, "none")


def provide_add(emission: Emission, node: ir.Node) -> Expr | None:
    """``Add`` of a bias to such a ``MatMul``: one product with its bias."""
    found = _biased_product(emission, node)
    return None if found is None else dense_layer(emission, *found, "none")


def provide_gelu(emission: Emission, node: ir.Node) -> Expr | None:
    """``Gelu`` and ``BiasGelu`` after such a product, with or without a bias: one layer."""
    approximate = attribute(node, "approximate", "none") == "tanh"
    activation = "gelu_tanh" if approximate else "gelu"
    producer = only_read_here(node.inputs[0])
    if producer is None:
        return None
    if node.op_type == "BiasGelu":
        bias = emission.array(node.inputs[1])
        found = None if bias is None else _factors(producer, bias)
    elif producer.op_type == "Add":
        found = _biased_product(emission, producer)
    else:
        found = _factors(producer, None)
    return None if found is None else dense_layer(emission, *found, activation)


_Layer = tuple[ir.Value | None, ir.Value | None, Array | None]
"""x, weights and bias."""


def _biased_product(emission: Emission, node: ir.Node) -> _Layer | None:
    """What an ``Add`` of a bias and a product multiplies and adds."""
    for index in (0, 1):
        producer, bias = only_read_here(node.inputs[index]), emission.array(node.inputs[1 - index])
        if producer is not None and bias is not None:
            return _factors(producer, bias)
    return None


def _factors(node: ir.Node, bias: Array | None) -> _Layer | None:
    if (node.domain, node.op_type) != ("", "MatMul"):
        return None
    return node.inputs[0], node.inputs[1], bias


def only_read_here(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value which nothing else reads: it need not be kept."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return value.producer()
