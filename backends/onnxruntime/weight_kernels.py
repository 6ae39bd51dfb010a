"""Lowering of products with low-bit weights to the contrib ``MatMulNBits``.

It multiplies activations, rounded to 8 bits in blocks within the kernel, with weights that stay
packed: two of four bits to the byte. Few tokens gain most: the weights are what is read. On many
tokens it is no faster than float32 by much; the numbers stay better than those of 8-bit products.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes import Rewriter

from .kernels import has_kernel

_CONTRIB_DOMAIN = "com.microsoft"
_INTEGER_ACTIVATIONS = 4
"""The kernel's accuracy level at which it multiplies integers."""
_FLOAT = ir.DataType.FLOAT
_BITS = {ir.DataType.INT4: 4, ir.DataType.INT8: 8}


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
    if weight.dtype not in _BITS or not has_kernel("MatMulNBits", _CONTRIB_DOMAIN, _FLOAT):
        return False
    bits = _BITS[weight.dtype]
    integers = weight.numpy().astype(np.int8)
    rows, columns = integers.shape
    with rewriter.rewrite("lower-weight-product", [maker, node], before=node) as builder:
        name = maker.inputs[0].name if maker.inputs[0] is not None else None
        operands = [
            x,
            builder.constant(packed_blocks(integers, block, bits), name or "weight"),
            builder.constant(np.ascontiguousarray(scale.numpy().T), "weight_scale"),
        ]
        attributes = {
            "K": rows,
            "N": columns,
            "bits": bits,
            "block_size": block,
            "accuracy_level": _INTEGER_ACTIVATIONS,
        }
        y = builder.op("MatMulNBits", operands, attributes, domain=_CONTRIB_DOMAIN)
        y.dtype, y.shape = _FLOAT, node.outputs[0].shape
        builder.replace(node.outputs[0], y)
    return True


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
