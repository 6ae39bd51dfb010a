"""Token rule of ``RotaryEmbedding``: each token turns by the angles of its own position."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import static_dim
from dechaff.passes.matching import integer_attribute, made_by, rank

from .elementwise_rules import check_broadcast
from .layouts import Layout, NotTokenWise
from .token_rule import Layouts, Operands, TokenRule, known, repeat


class Rotary(TokenRule):
    """Rotary positions of ``[B, H, S, d]`` or ``[B, S, H * d]``.

    Packed, the tokens of all rows are the sequence of a batch of one. The angles travel with them:
    sine and cosine of each token, or its position id.
    """

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Batch and sequence lie where the operator expects them; so do those of the angles."""
        states = known(node.inputs[0])
        expected = Layout(4, 0, 2) if rank(states) == 4 else Layout(3, 0, 1)
        if layouts.get(states) != expected:
            raise NotTokenWise("batch and sequence lie on unexpected axes")
        if _num_heads(node) is None or _head_size(states) is None:
            raise NotTokenWise("the number of heads or their size is not known before run time")
        for value in _per_token(node):
            if value in layouts and layouts[value] != Layout(rank(value) or 0):
                raise NotTokenWise("the angles' batch and sequence lie on unexpected axes")
            if value not in layouts:
                _check_angles(value, mask)
        return expected

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same turn of ``[1, T, H * d]``."""
        build, states = operands.builder, known(node.inputs[0])
        heads, size = _num_heads(node) or 1, _head_size(states) or 1
        tokens = operands.packed(states)
        if rank(states) == 4:
            tokens = build.op("Reshape", [tokens, _sizes([0, heads * size], "join", operands)])
        row = build.op("Unsqueeze", [tokens, _sizes([0], "axes", operands)])
        angles = [_packed_row(value, operands) for value in _per_token(node)]
        others = node.inputs[1:3] if len(angles) == 1 else []
        turned = repeat(node, [row, *others, *angles], build, num_heads=heads)[0]
        flat = build.op("Squeeze", [turned, _sizes([0], "axes", operands)])
        if rank(states) == 3:
            return [flat]
        return [build.op("Reshape", [flat, _sizes([0, heads, size], "split", operands)])]


def _check_angles(value: ir.Value, mask: ir.Value) -> None:
    check_broadcast(value, Layout(rank(value) or 0), mask)
    if value.shape is not None and static_dim(value.shape[1]) == 1:
        raise NotTokenWise("all positions share one angle")


def _packed_row(value: ir.Value, operands: Operands) -> ir.Value:
    """``[1, T, ...]`` of what each token has."""
    if value in operands.layouts:
        tokens = operands.packed(value)
    else:
        tokens = operands.broadcast(value, Layout(rank(value) or 0))
    return operands.builder.op("Unsqueeze", [tokens, _sizes([0], "axes", operands)])


def _per_token(node: ir.Node) -> list[ir.Value]:
    """The operands with an entry per token: position ids, or else the caches themselves."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return [node.inputs[3]]
    return [_before_expand(value) for value in node.inputs[1:3] if value is not None]


def _before_expand(value: ir.Value) -> ir.Value:
    """Angles that all rows share are written out for the operator; packing reads them once."""
    expand = made_by(value, "Expand")
    source = expand.inputs[0] if expand is not None else None
    return source if source is not None and rank(source) == rank(value) else value


def _num_heads(node: ir.Node) -> int | None:
    states = known(node.inputs[0])
    if states.shape is not None and len(states.shape) == 4:
        return static_dim(states.shape[1])
    return integer_attribute(node, "num_heads", 0) or None


def _head_size(states: ir.Value) -> int | None:
    """Size of a head of ``[B, H, S, d]``; of ``[B, S, H * d]``, of all heads together."""
    return static_dim(states.shape[-1]) if states.shape is not None else None


def _sizes(values: list[int], name: str, operands: Operands) -> ir.Value:
    return operands.builder.constant(np.array(values, np.int64), name)
