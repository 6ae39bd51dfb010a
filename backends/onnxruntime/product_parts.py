"""Products whose result is only cut into parts: each part becomes a product of its own.

One product with query, key and value side by side, or with the two halves of a gated feed-forward
layer, is about as fast as two or three narrow ones in ONNX Runtime, and its parts are then copied
out of it. The narrow products write them where they belong. On two cores the ModernBERT-like model
of the benchmarks, 22 layers of 3 * 768 and of 2 * 1152 columns, takes 0.92 to 0.97 of the time at
8, 32 and 64 tokens, with either kind of product alone 0.94 to 0.98. By itself a layer of 3 * 768
columns took 0.92 to 1.0 of the time at 1 to 8192 rows, one of 2 * 2048 columns 0.91 to 1.0 at 1 to
64 rows, and one of 2 * 1152 columns 1.0 to 1.06 below 64 rows and 0.94 to 0.99 above.

The result of each column is the same sum, in the order that the kernel takes for its width.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value, static_dim
from dechaff.passes import GraphBuilder, Rewriter
from dechaff.passes.fuse_bias_gelu import dense_and_bias
from dechaff.passes.matching import (
    has_own_weight,
    integer_attribute,
    is_op,
    only_consumer,
    rank,
    sizes_of,
)

_RULE = "product-per-part"


@dataclasses.dataclass(frozen=True)
class _Part:
    """Columns of a product that a node reads, and the value that holds them."""

    columns: slice
    value: ir.Value
    reader: ir.Node


def split_product(product: ir.Node, rewriter: Rewriter) -> bool:
    """``MatMul`` by a constant matrix, and the constant vector that is added, part by part."""
    weight = constant_value(product.inputs[1])
    if weight is None or len(sizes_of(weight)) != 2 or not has_own_weight(product):
        return False
    addition = only_consumer(product.outputs[0])
    operands = dense_and_bias(addition) if addition is not None and is_op(addition, "Add") else None
    bias = constant_value(operands[1]) if operands is not None else None
    whole = product if bias is None or addition is None else addition
    parts = _parts(whole.outputs[0], sizes_of(weight)[1])
    if parts is None:
        return False
    nodes = dict.fromkeys([product, whole, *(part.reader for part in parts)])
    with rewriter.rewrite(_RULE, list(nodes), before=product) as build:
        for part in parts:
            y = build.op("MatMul", [product.inputs[0], _of(weight, part, build)])
            if bias is not None:
                y = build.op("Add", [y, _of(bias, part, build)])
            build.replace(part.value, y)
    return True


def _of(tensor: ir.TensorProtocol, part: _Part, builder: GraphBuilder) -> ir.Value:
    """The part's columns of a weight or bias, taken when they are read."""
    sizes = sizes_of(tensor)
    width = part.columns.stop - part.columns.start

    def columns() -> ir.TensorProtocol:
        taken = np.ascontiguousarray(tensor.numpy()[..., part.columns])
        return ir.tensor(taken, dtype=tensor.dtype)

    shape = ir.Shape([*sizes[:-1], width])
    return builder.tensor(ir.LazyTensor(columns, dtype=tensor.dtype, shape=shape), "part")


def _parts(whole: ir.Value, width: int) -> list[_Part] | None:
    """What reads the value, if all of it are parts, of no more columns together than there are."""
    parts: list[_Part] = []
    for reader, index in whole.uses():
        found = _read_by(reader, whole, width) if index == 0 else None
        if found is None:
            return None
        parts += found
    columns = sum(part.columns.stop - part.columns.start for part in parts)
    return parts if len(parts) > 1 and columns <= width and not whole.is_graph_output() else None


def _read_by(reader: ir.Node, whole: ir.Value, width: int) -> list[_Part] | None:
    if is_op(reader, "Slice"):
        columns = _sliced(reader, whole, width)
        return None if columns is None else [_Part(columns, reader.outputs[0], reader)]
    if not is_op(reader, "Split") or integer_attribute(reader, "axis", 0) not in _last(whole):
        return None
    start, parts = 0, []
    for value in reader.outputs:
        size = static_dim(value.shape[-1]) if value.shape is not None else None
        if not size:
            return None
        parts.append(_Part(slice(start, start + size), value, reader))
        start += size
    return parts


def _sliced(reader: ir.Node, whole: ir.Value, width: int) -> slice | None:
    """The columns that a ``Slice`` takes, if it takes nothing but whole columns, in order."""
    tensors = [constant_value(value) for value in reader.inputs[1:]]
    vectors = [tensor.numpy().reshape(-1).tolist() for tensor in tensors if tensor is not None]
    if len(vectors) < len(tensors) or len(vectors) < 3 or any(len(v) != 1 for v in vectors):
        return None
    (start,), (end,), (axis,), *steps = vectors
    if axis not in _last(whole) or steps not in ([], [[1]]):
        return None
    first, last, _ = slice(start, end).indices(width)
    return slice(first, last) if last > first else None


def _last(value: ir.Value) -> tuple[int, ...]:
    """The two numbers of the last axis."""
    of_rank = rank(value)
    return (-1,) if of_rank is None else (-1, of_rank - 1)
