"""Lowering of low-bit weights to the contrib ``MatMulNBits`` and ``GatherBlockQuantized``.

The first multiplies activations, rounded to 8 bits in blocks within the kernel, with weights that
stay packed: two of four bits to the byte, or four of two. Few tokens gain most: the weights are
what is read. On many tokens it is no faster than float32 by much; the numbers stay better than
those of 8-bit products.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes import GraphBuilder, Rewriter
from dechaff.passes.matching import integer_attribute, sizes_of

from .contrib_kernels import CONTRIB_DOMAIN
from .kernels import has_kernel
from .three_bit_storage import (
    STORAGE_DOMAIN,
    UNPACK,
    define_unpacking,
    fits_three_bits,
    three_of_four,
)

_INTEGER_ACTIVATIONS = 4
"""The kernel's accuracy level at which it multiplies integers."""
_FLOAT = ir.DataType.FLOAT
BITS = {ir.DataType.INT4: 4, ir.DataType.INT8: 8}
_LEAST_BLOCK, _MOST_BLOCK = 16, 128
_LEAST_BLOCK_OF_TWO_BITS = 32


def lower_weight_product(node: ir.Node, rewriter: Rewriter) -> bool:
    """``MatMul`` of activations and ``DequantizeLinear`` of constants to one kernel."""
    x, restored = node.inputs[:2]
    maker = restored.producer() if restored is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or maker.domain != "":
        return False
    weight, scale = (constant_value(value) for value in maker.inputs[:2])
    if weight is None or scale is None or len(maker.inputs) > 2 or x is None:
        return False
    if weight.dtype not in BITS or not has_kernel("MatMulNBits", CONTRIB_DOMAIN, _FLOAT):
        return False
    group = _rows_of_a_scale(maker, weight)
    block = None if group is None else kernel_block(group)
    if group is None or block is None:
        return False
    integers = weight.numpy().astype(np.int8)
    bits = 2 if _fits_two_bits(integers, block) else BITS[weight.dtype]
    with rewriter.rewrite("lower-weight-product", [maker, node], before=node) as builder:
        name = maker.inputs[0].name if maker.inputs[0] is not None else None
        by_column = np.ascontiguousarray(scale.numpy().reshape(-1, integers.shape[1]).T)
        packed = packed_blocks(integers, block, bits)
        weights = _stored(packed, bits == 4 and fits_three_bits(integers, packed), name, builder)
        scales = builder.constant(by_column, "weight_scale")
        blocks = -(-len(integers) // block)
        scales = repeat_scales(scales, blocks, group // block, builder)
        y = low_bit_product(builder, [x, weights, scales], weight, block, bits)
        builder.replace(node.outputs[0], y)
    define_unpacking(rewriter.module)
    return True


def _stored(
    packed: npt.NDArray[np.uint8], in_three_bits: bool, name: str | None, builder: GraphBuilder
) -> ir.Value:
    """The constant of the kernel's bytes, or what takes it apart."""
    if not in_three_bits:
        return builder.constant(packed, name or "weight")
    stored = builder.constant(three_of_four(packed), name or "weight")
    attributes = {"shape": list(packed.shape)}
    bytes_of_four = builder.op(UNPACK, [stored], attributes, domain=STORAGE_DOMAIN)
    bytes_of_four.dtype, bytes_of_four.shape = ir.DataType.UINT8, ir.Shape(packed.shape)
    return bytes_of_four


def _rows_of_a_scale(restoring: ir.Node, weight: ir.TensorProtocol) -> int | None:
    """Rows of a column that share a scale; None if there is another layout of scales."""
    axis = integer_attribute(restoring, "axis", 1)
    if "block_size" in restoring.attributes:
        return restoring.attributes["block_size"].as_int() if axis == 0 else None
    scale = constant_value(restoring.inputs[1])
    rows, columns = sizes_of(weight)
    return rows if axis == 1 and scale is not None and tuple(scale.shape) == (columns,) else None


def _fits_two_bits(integers: npt.NDArray[np.int8], block: int) -> bool:
    """Whether weights are stored in two bits: those of blocks below 32 have no fast kernel."""
    return block >= _LEAST_BLOCK_OF_TWO_BITS and integers.min() >= -2 and integers.max() <= 1


def lower_int4_gather(node: ir.Node, rewriter: Rewriter) -> bool:
    """To ``GatherBlockQuantized``, which restores the rows that it reads."""
    table, scale, ids = node.inputs
    scales, group = constant_value(scale), node.attributes["block_size"].as_int()
    block = kernel_block(group)
    if scale is None or scales is None or block is None:
        return False
    if not has_kernel("GatherBlockQuantized", CONTRIB_DOMAIN, ir.DataType.UINT8):
        return False
    with rewriter.rewrite("lower-int4-gather", [node]) as builder:
        blocks = sizes_of(scales)[1] * group // block
        repeated = repeat_scales(scale, blocks, group // block, builder)
        attributes = {"bits": 4, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        operands = [table, ids, repeated]
        y = builder.op("GatherBlockQuantized", operands, attributes, domain=CONTRIB_DOMAIN)
        y.dtype, y.shape = _FLOAT, node.outputs[0].shape
        builder.replace(node.outputs[0], y)
    return True


def kernel_block(rows: int) -> int | None:
    """The largest power of two, 16 to 128, that divides the rows of a group."""
    block = _MOST_BLOCK
    while block >= _LEAST_BLOCK:
        if rows % block == 0:
            return block
        block //= 2
    return None


def repeat_scales(scales: ir.Value, blocks: int, repeats: int, builder: GraphBuilder) -> ir.Value:
    """Scales ``[N, G]`` as ``[N, blocks]``: as many of the kernel's blocks share one of ours.

    The file holds each once; the runtime folds this as it loads.
    """
    if repeats == 1:
        return scales
    places = builder.constant(np.arange(blocks, dtype=np.int64) // repeats, "groups")
    return builder.op("Gather", [scales, places], {"axis": 1})


def low_bit_product(
    builder: GraphBuilder,
    operands: Sequence[ir.Value | None],
    weight: ir.TensorProtocol,
    block: int,
    bits: int,
) -> ir.Value:
    """``MatMulNBits`` that multiplies integers.

    Args:
        builder: where it goes.
        operands: activations, weights as :func:`packed_blocks` lays them out, and their scales.
        weight: [K, N], the weights before they were packed; int4 or int8.
        block: weights of a column that share a scale.
        bits: of a packed weight: 2, 4 or 8.
    """
    rows, columns = sizes_of(weight)
    attributes = {
        "K": rows,
        "N": columns,
        "bits": bits,
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
    in_a_byte = 8 // bits
    packed = np.zeros((*blocks.shape[:2], block // in_a_byte), np.uint8)
    for place in range(in_a_byte):
        packed |= np.left_shift(blocks[..., place::in_a_byte], bits * place, dtype=np.uint8)
    return packed
