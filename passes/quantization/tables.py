"""Tables of embeddings: where rows are looked up, and their integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, constant_value
from dechaff.passes.matching import integer_attribute, is_op, sizes_of
from dechaff.passes.rewriter import GraphBuilder, Rewriter

from .grids import Grid
from .rounding import Integers
from .storage import store_array

TABLE_BITS = (0, 4, 8)
"""Widths that tables of embeddings may have; 0 leaves them as they are."""
_RULE = "quantize-table"


def quantize_tables(module: Module, bits: int, group: int, rewriter: Rewriter) -> None:
    """Let all that looks rows up restore the rows it reads, from integers of 4 or 8 bits.

    A row's blocks of ``group`` columns have a scale each; the whole row has one where that does not
    divide it. No row depends on another.
    """
    for value, gathers in lookup_tables(module, rewriter, _RULE).items():
        _quantize_table(value, gathers, bits, group, rewriter)


def _quantize_table(
    value: ir.Value, gathers: list[ir.Node], bits: int, group: int, rewriter: Rewriter
) -> None:
    tensor = constant_value(value)
    assert tensor is not None  # it was found as a constant
    by_column = np.ascontiguousarray(tensor.numpy().T)
    columns = len(by_column)
    block = group if group and columns % group == 0 else columns
    grid = Grid.of(by_column, bits, block)
    integers = grid.round(by_column).T
    stored = integers if bits == 8 else packed_table(integers)
    operands: list[ir.Value] = []
    for gather in gathers:
        with rewriter.rewrite(_RULE, [gather]) as builder:
            name = value.name or "table"
            operands = operands or [
                store_array(stored, name, builder),
                builder.constant(np.ascontiguousarray(grid.scale.T), f"{name}_scale"),
            ]
            look_up = _look_up_bytes if bits == 8 else _look_up_nibbles
            builder.replace(gather.outputs[0], look_up(operands, gather.inputs[1], block, builder))


def _look_up_bytes(
    operands: list[ir.Value], ids: ir.Value | None, block: int, builder: GraphBuilder
) -> ir.Value:
    rows, scales = (builder.op("Gather", [each, ids], {"axis": 0}) for each in operands)
    return builder.op("DequantizeLinear", [rows, scales], {"axis": -1, "block_size": block})


def _look_up_nibbles(
    operands: list[ir.Value], ids: ir.Value | None, block: int, builder: GraphBuilder
) -> ir.Value:
    return builder.op("Int4Gather", [*operands, ids], {"block_size": block}, domain=DOMAIN)


def lookup_tables(module: Module, rewriter: Rewriter, rule: str) -> dict[ir.Value, list[ir.Node]]:
    """Tables of float32 whose rows are looked up, and where; why one is none is a near miss."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in module.graph:
        value = node.inputs[0] if is_op(node, "Gather") else None
        tensor = constant_value(value)
        if value is None or tensor is None or integer_attribute(node, "axis", 0) != 0:
            continue
        if len(tensor.shape) != 2 or tensor.dtype is not ir.DataType.FLOAT:
            continue
        reason = _reason_to_keep(value, tensor)
        if reason is not None:
            rewriter.miss(rule, node, reason)
        else:
            found.setdefault(value, []).append(node)
    return found


def _reason_to_keep(value: ir.Value, tensor: ir.TensorProtocol) -> str | None:
    if sizes_of(tensor)[1] % 2:
        return "its rows have an odd number of columns"
    if any(not is_op(user, "Gather") for user, _ in value.uses()):
        return f"the table {value.name!r} is read as a whole too"
    if not np.isfinite(tensor.numpy()).all():
        return "its table is not finite"
    return None


def packed_table(integers: Integers) -> npt.NDArray[np.uint8]:
    """uint8[V, D / 2] of int8[V, D] within -8 .. 7, shifted from 0; the even column is low."""
    shifted = (integers.astype(np.int16) + 8).astype(np.uint8)
    return shifted[:, 0::2] | np.left_shift(shifted[:, 1::2], 4, dtype=np.uint8)
