"""Operators that move whole rows on a GPU: between layouts, and out of tables."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from tvm import relax, tirx

from . import dense_products
from .dense_products import only_read_here
from .emission import Emission, Expr, attribute
from .kernels.gathering import gather_rows
from .kernels.packing import pack, token_layout, unpack
from .scheduled_calls import call_scheduled, is_half, like_rows


def constant_width(sizes: list[Any]) -> int | None:
    """The product of sizes, if all are numbers."""
    if not all(isinstance(size, tirx.IntImm) for size in sizes):
        return None
    return math.prod(int(size) for size in sizes)


def provide_token_layout(emission: Emission, node: ir.Node) -> list[Expr] | None:
    """``TokenLayout`` in one launch, where the function is told how many rows to make room for."""
    mask = emission.tensor(node.inputs[0])
    (tokens,) = emission.output_shape(node, 0)
    if not emission.is_bound(tokens):
        return None
    batch, sequence = emission.shape(mask)
    outputs = [((tokens,), "int64"), ((batch + 1,), "int64"), ((batch, sequence), "int64")]
    layout = call_scheduled(emission, token_layout(), "token_layout", [mask], outputs)
    return [emission.emit(relax.TupleGetItem(layout, i)) for i in range(3)]


def provide_pack(emission: Emission, node: ir.Node) -> Expr | None:
    """``Pack`` of 16-bit rows, 16 bytes a lane; a leading size of 1 stands for every row."""
    x, token_index, mask = emission.tensors(node)
    shape, grid = emission.shape(x), emission.shape(mask)
    width = constant_width(shape[2:])
    if not is_half(emission, x) or width is None or width % 8:
        return None
    if not emission.sizes.equal(shape[1], grid[1]):
        return None
    is_shared = not emission.sizes.equal(shape[0], grid[0])
    if is_shared and constant_width(shape[:1]) != 1:
        return None
    rows = emission.emit(relax.op.reshape(x, [shape[0] * shape[1], width]))
    (tokens,) = emission.shape(token_index)
    kernel = pack(width, emission.dtype(x), is_shared)
    packed = call_scheduled(
        emission, kernel, "pack", [rows, token_index], [((tokens, width), emission.dtype(x))]
    )
    return like_rows(emission, packed, [tokens, *shape[2:]])


def provide_unpack(emission: Emission, node: ir.Node) -> Expr | None:
    """``Unpack`` of 16-bit rows: every position looks up its token."""
    return _unpacked(emission, node, emission.dtype(emission.tensor(node.inputs[0])))


def provide_cast(emission: Emission, node: ir.Node) -> Expr | None:
    """``Cast`` to float32 of unpacked rows, in the kernel that unpacks them."""
    producer = only_read_here(node.inputs[0])
    if producer is None or producer.op_type != "Unpack":
        return None
    to_float32 = attribute(node, "to", 0) == ir.DataType.FLOAT
    return _unpacked(emission, producer, "float32") if to_float32 else None


def _unpacked(emission: Emission, node: ir.Node, dtype: str) -> Expr | None:
    packed, _, mask = emission.tensors(node)
    shape = emission.shape(packed)
    width = constant_width(shape[1:])
    layout = node.inputs[1].producer() if node.inputs[1] is not None else None
    if layout is None or layout.op_type != "TokenLayout" or width is None or width % 8:
        return None
    if not is_half(emission, packed):
        return None
    rows = like_rows(emission, packed, [shape[0], width])
    output = ((*emission.shape(mask), width), dtype)
    kernel = unpack(width, emission.dtype(packed), dtype)
    args = [rows, emission.tensor(layout.outputs[2]), mask]
    result = call_scheduled(emission, kernel, "unpack", args, [output])
    return like_rows(emission, result, [*emission.shape(mask), *shape[1:]])


def provide_gather(emission: Emission, node: ir.Node) -> Expr | None:
    """``Gather`` of 16-bit rows of a table, 16 bytes a lane."""
    table, index = _looked_up(emission, node) or (None, None)
    return None if table is None else _gathered(emission, [(table, index)])


def provide_add(emission: Emission, node: ir.Node) -> Expr | None:
    """``Add`` of a bias to a product, or of two such gathers: one kernel each."""
    biased = dense_products.provide_add(emission, node)
    if biased is not None:
        return biased
    terms = [_gather_read_here(emission, value) for value in node.inputs]
    if None in terms:
        return None
    (_, first), (_, second) = found = [term for term in terms if term is not None]
    sizes = [emission.shape(index) for index in (first, second)]
    same = len(sizes[0]) == len(sizes[1]) and all(map(emission.sizes.equal, *sizes))
    return _gathered(emission, found) if same else None


_Lookup = tuple[Expr, Expr]
"""A table and indices into it."""


def _gather_read_here(emission: Emission, value: ir.Value | None) -> _Lookup | None:
    """The gather that computes a value which nothing else reads."""
    node = only_read_here(value)
    return None if node is None or node.op_type != "Gather" else _looked_up(emission, node)


def _looked_up(emission: Emission, node: ir.Node) -> _Lookup | None:
    table, index = emission.tensors(node)
    shape = emission.shape(table)
    width = constant_width(shape[1:]) if len(shape) == 2 else None
    if not is_half(emission, table) or width is None or width % 8:
        return None
    if attribute(node, "axis", 0) != 0 or emission.dtype(index) != "int64":
        return None
    return (table, index) if emission.shape(index) else None


def _gathered(emission: Emission, lookups: list[_Lookup]) -> Expr:
    """The rows of one table, or the sums of rows of two, of as many columns."""
    dtype, width = emission.dtype(lookups[0][0]), int(emission.shape(lookups[0][0])[1])
    leading = emission.shape(lookups[0][1])
    args = []
    for table, index in lookups:
        count = emission.sizes.simplify(math.prod(leading, start=tirx.IntImm("int64", 1)))
        args += [table, like_rows(emission, index, [count])]
    kernel = gather_rows(width, dtype, has_second=len(lookups) == 2)
    rows = call_scheduled(emission, kernel, "gather_rows", args, [((count, width), dtype)])
    return like_rows(emission, rows, [*leading, tirx.IntImm("int64", width)])
