"""Lowering of products with low-bit weights to the contrib ``MatMulNBits``.

It multiplies activations, rounded to 8 bits in blocks within the kernel, with weights that stay
packed: two of four bits to the byte. Few tokens gain most: the weights are what is read. On many
tokens it is no faster than float32 by much; the numbers stay better than those of 8-bit products.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes import GraphBuilder, Rewriter
from dechaff.passes.matching import sizes_of

from .contrib_kernels import CONTRIB_DOMAIN
from .kernels import has_kernel

_INTEGER_ACTIVATIONS = 4
"""The kernel's accuracy level at which it multiplies integers."""
_FLOAT = ir.DataType.FLOAT
BITS = {ir.DataType.INT4: 4, ir.DataType.INT8: 8}


def lower_weight_product(node: ir.Node, rewriter: Rewriter) -> bool:
    """``MatMul`` of activations and ``DequantizeLinear`` of constant blocks to one kernel."""
    x, restored = node.inputs[:2]
    maker = restored.producer() if restored is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or maker.domain != "":
        return False
    block = maker.attributes["block_size"].as_int() if "block_size" in maker.attributes else 0
    weight, scale = (constant_value(value) for value in maker.inputs[:2])
    if weight is None or scale is None or block < 16 or len(maker.inputs) > 2 or x is None:
        return False
    if weight.dtype not in BITS or not has_kernel("MatMulNBits", CONTRIB_DOMAIN, _FLOAT):
        return False
    integers = weight.numpy().astype(np.int8)
    with rewriter.rewrite("lower-weight-product", [maker, node], before=node) as builder:
        name = maker.inputs[0].name if maker.inputs[0] is not None else None
        packed = packed_blocks(integers, block, BITS[weight.dtype])
        weights = builder.constant(packed, name or "weight")
        scales = builder.constant(np.ascontiguousarray(scale.numpy().T), "weight_scale")
        y = low_bit_product(builder, [x, weights, scales], weight, block)
        builder.replace(node.outputs[0], y)
    return True


def low_bit_product(
    builder: GraphBuilder,
    operands: Sequence[ir.Value | None],
    weight: ir.TensorProtocol,
    block: int,
) -> ir.Value:
    """``MatMulNBits`` that multiplies integers.

    Args:
        builder: where it goes.
        operands: activations, weights as :func:`packed_blocks` lays them out, and their scales.
        weight: [K, N], the weights before they were packed; int4 or int8.
        block: weights of a column that share a scale.
    """
    rows, columns = sizes_of(weight)
    attributes = {
        "K": rows,
        "N": columns,
        "bits": BITS[weight.dtype],
        "block_size": block,
        "accuracy_level": _INTEGER_ACTIVATIONS,
    }
    y = builder.op("MatMulNBits", operands, attributes, domain=CONTRIB_DOMAIN)
    y.dtype = _FLOAT
    return y


def packed_blocks(integers: npt.NDArray[np.int8], block: int, bits: int) -> npt.NDArray[np.uint8]:
    """int8[K, N] as the kernel's uint8[N, number of blocks, bytes of a block], shifted from 0."""
    rows, columns = integers.shape
    shifted = (integers.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    missing = -rows % block
    padded = np.pad(shifted, [(0, missing), (0, 0)], constant_values=1 << (bits - 1))
    blocks = np.ascontiguousarray(padded.T).reshape(columns, -1, block)
    if bits == 8:
        return blocks
    high = np.left_shift(blocks[..., 1::2], 4, dtype=np.uint8)
    return np.bitwise_or(blocks[..., 0::2], high, dtype=np.uint8)
