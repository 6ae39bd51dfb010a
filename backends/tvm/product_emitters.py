"""Matrix products, convolutions and pooling: products of 16-bit values are summed in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, tirx

from .elementwise_emitters import broadcast, widened
from .emission import Emission, Expr, LoweringError, attribute


def product(emission: Emission, left: Expr, right: Expr) -> Expr:
    """``left @ right``; a sum of 16-bit products is kept in float32 until it is complete."""
    left, right = broadcast(emission, [left, right], own_axes=2)
    left_shape, right_shape = emission.shape(left), emission.shape(right)
    if len(left_shape) > 1 and len(right_shape) > 1:
        inner = [*right_shape[:-2], left_shape[-1], right_shape[-1]]
        right = emission.match(right, inner)
    dtype = emission.dtype(left)
    if dtype not in ("float16", "bfloat16"):
        return emission.emit(relax.op.matmul(left, right))
    wide = emission.emit(relax.op.matmul(left, right, out_dtype="float32"))
    return emission.emit(relax.op.astype(wide, dtype))


def emit_mat_mul(emission: Emission, node: ir.Node) -> Expr:
    """``MatMul``."""
    return product(emission, *emission.tensors(node))


def emit_gemm(emission: Emission, node: ir.Node) -> Expr:
    """``Gemm``: a constant operand is transposed and scaled before the build."""
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    left = _operand(emission, node.inputs[0], bool(attribute(node, "transA", 0)))
    right = _operand(emission, node.inputs[1], bool(attribute(node, "transB", 0)))
    result = product(emission, left, right)
    if alpha != 1.0:
        result = emission.emit(relax.op.multiply(result, _scalar(emission, result, alpha)))
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return result
    bias = emission.tensor(node.inputs[2])
    if beta != 1.0:
        bias = emission.emit(relax.op.multiply(bias, _scalar(emission, bias, beta)))
    return relax.op.add(*broadcast(emission, [result, bias]))


def _operand(emission: Emission, value: ir.Value | None, transposed: bool) -> Expr:
    if not transposed:
        return emission.tensor(value)
    array = emission.array(value)
    if array is not None:
        return emission.constant(np.ascontiguousarray(array.T))
    return emission.emit(relax.op.permute_dims(emission.tensor(value), [1, 0]))


def _scalar(emission: Emission, like: Expr, number: float) -> Expr:
    return emission.constant(np.array(number, emission.dtype(like)))


def emit_einsum(emission: Emission, node: ir.Node) -> Expr:
    """``Einsum``."""
    return relax.op.einsum(
        relax.Tuple(emission.tensors(node)), attribute(node, "equation", "").replace(" ", "")
    )


def emit_conv(emission: Emission, node: ir.Node) -> Expr:
    """``Conv`` over one or two axes with explicit padding."""
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise LoweringError("only explicit padding is lowered")
    x, weight = emission.tensor(node.inputs[0]), emission.tensor(node.inputs[1])
    axes = len(emission.shape(x)) - 2
    patches = _patches(emission, node, x)
    if patches is not None:
        return patches
    function = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}.get(axes)
    if function is None:
        raise LoweringError(f"a convolution over {axes} axes is not lowered")
    dtype = emission.dtype(x)
    result = emission.emit(
        function(
            x,
            weight,
            strides=list(attribute(node, "strides", [1] * axes)),
            padding=list(attribute(node, "pads", [0] * 2 * axes)),
            dilation=list(attribute(node, "dilations", [1] * axes)),
            groups=attribute(node, "group", 1),
            out_dtype="float32" if dtype in ("float16", "bfloat16") else dtype,
        )
    )
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = emission.emit(
            relax.op.astype(emission.tensor(node.inputs[2]), emission.dtype(result))
        )
        shaped = emission.emit(relax.op.reshape(bias, [1, -1, *[1] * axes]))
        result = emission.emit(relax.op.add(result, shaped))
    return relax.op.astype(result, dtype)


def _patches(emission: Emission, node: ir.Node, x: Expr) -> Expr | None:
    """A convolution whose windows tile the image, as one product of patches and weights.

    So a vision model embeds its patches; a product is what schedules know best.
    """
    weight = emission.array(node.inputs[1])
    if weight is None or weight.ndim != 4 or attribute(node, "group", 1) != 1:
        return None
    outputs, channels, *window = weight.shape
    sizes = emission.shape(x)
    plain = not any(attribute(node, "pads", ())) and set(attribute(node, "dilations", ())) <= {1}
    if not plain or list(attribute(node, "strides", [1, 1])) != window:
        return None
    if not all(isinstance(size, tirx.IntImm) for size in sizes[1:]):
        return None
    height, width = (int(size) for size in sizes[2:])
    if height % window[0] or width % window[1]:
        return None
    rows, columns = height // window[0], width // window[1]
    split = [sizes[0], channels, rows, window[0], columns, window[1]]
    apart = emission.emit(relax.op.reshape(x, split))
    turned = emission.emit(relax.op.permute_dims(apart, [0, 2, 4, 1, 3, 5]))
    patch = channels * window[0] * window[1]
    flat = emission.emit(relax.op.reshape(turned, [sizes[0] * (rows * columns), patch]))
    # TVM's rule for products fails where the rows are a multiple of a size, 4 * batch.
    flat = emission.match(flat, [emission.sizes.new_variable(), tirx.IntImm("int64", patch)])
    factor = np.ascontiguousarray(weight.reshape(outputs, patch).T)
    result = product(emission, flat, emission.constant(factor))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        result = emission.emit(relax.op.add(result, emission.tensor(node.inputs[2])))
    result = emission.emit(relax.op.reshape(result, [sizes[0], rows * columns, outputs]))
    turned = emission.emit(relax.op.permute_dims(result, [0, 2, 1]))
    return relax.op.reshape(turned, [sizes[0], outputs, rows, columns])


def emit_average_pool(emission: Emission, node: ir.Node) -> Expr:
    """``AveragePool`` over one or two axes."""
    return _pool(
        emission,
        node,
        {1: relax.op.nn.avg_pool1d, 2: relax.op.nn.avg_pool2d},
        {"count_include_pad": bool(attribute(node, "count_include_pad", 0))},
    )


def emit_max_pool(emission: Emission, node: ir.Node) -> Expr:
    """``MaxPool`` over one or two axes; the indices are not given."""
    if len(node.outputs) > 1:
        raise LoweringError("the indices of the maxima are not computed")
    return _pool(emission, node, {1: relax.op.nn.max_pool1d, 2: relax.op.nn.max_pool2d}, {})


def _pool(emission: Emission, node: ir.Node, functions: Any, options: dict[str, bool]) -> Expr:
    x = emission.tensor(node.inputs[0])
    axes = len(emission.shape(x)) - 2
    if axes not in functions or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise LoweringError("only pooling over one or two axes with explicit padding is lowered")

    def pool(value: Expr) -> Expr:
        return functions[axes](
            value,
            pool_size=list(attribute(node, "kernel_shape", [])),
            strides=list(attribute(node, "strides", [1] * axes)),
            padding=list(attribute(node, "pads", [0] * 2 * axes)),
            dilation=list(attribute(node, "dilations", [1] * axes)),
            ceil_mode=bool(attribute(node, "ceil_mode", 0)),
            **options,
        )

    return widened(emission, x, pool)
