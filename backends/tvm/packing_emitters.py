"""Operators of the dialect that move tokens between the padded layout and the packed one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from .emission import Emission, Expr
from .scatter_kernels import positions_of_true, running_sum


def emit_token_layout(emission: Emission, node: ir.Node) -> list[Expr]:
    """``TokenLayout``: the number of kept tokens is read back, once for each mask."""
    mask = emission.tensor(node.inputs[0])
    batch, sequence = emission.shape(mask)
    flat = emission.emit(relax.op.reshape(mask, [batch * sequence]))
    token_index, running = positions_of_true(emission, flat)
    lengths = emission.emit(relax.op.sum(emission.emit(relax.op.astype(mask, "int64")), [1]))
    ends = running_sum(emission, lengths)
    start = emission.constant(np.zeros(1, np.int64))
    cu_seqlens = emission.emit(relax.op.concat([start, ends], 0))
    last = emission.emit(relax.op.subtract(running, emission.constant(np.array(1, np.int64))))
    return [token_index, cu_seqlens, emission.emit(relax.op.reshape(last, [batch, sequence]))]


def emit_pack(emission: Emission, node: ir.Node) -> Expr:
    """``Pack``: a gather of rows; a leading size of 1 stands for every row, or every position."""
    x, token_index, mask = emission.tensors(node)

    def compute(source: Any, index: Any, kept: Any) -> Any:
        batch, sequence = kept.shape

        def element(token: Any, *rest: Any) -> Any:
            flat = tirx.max(tirx.IntImm("int64", 0), tirx.min(index(token), batch * sequence - 1))
            row, position = tirx.floordiv(flat, sequence), tirx.floormod(flat, sequence)
            places = (row, position)
            lead = [
                tirx.IntImm("int64", 0) if _is_one(size) else place
                for size, place in zip(source.shape[:2], places, strict=True)
            ]
            return source(*lead, *rest)

        return te.compute([index.shape[0], *source.shape[2:]], element, name="pack")

    return emission.emit_te(compute, x, token_index, mask, name="pack")


def _is_one(size: Any) -> bool:
    return isinstance(size, tirx.IntImm) and int(size) == 1


def emit_unpack(emission: Emission, node: ir.Node) -> Expr:
    """``Unpack``: each position finds its token by the running count of the mask."""
    packed, _, mask = emission.tensors(node)
    batch, sequence = emission.shape(mask)
    flat = emission.emit(relax.op.reshape(mask, [batch * sequence]))
    counts = emission.emit(relax.op.astype(flat, "int64"))
    running = running_sum(emission, counts)
    position = emission.emit(relax.op.reshape(running, [batch, sequence]))

    def compute(source: Any, kept: Any, count: Any) -> Any:
        shape = [*kept.shape, *source.shape[1:]]

        def element(row: Any, column: Any, *rest: Any) -> Any:
            token = tirx.min(count(row, column) - 1, source.shape[0] - 1)
            zero = tirx.const(0, source.dtype)
            return tirx.if_then_else(kept(row, column), source(token, *rest), zero)

        return te.compute(shape, element, name="unpack")

    return emission.emit_te(compute, packed, mask, position, name="unpack")
