"""The pass ``merge-qkv``: the projections of an attention that read one value become one MatMul."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, constant_value

from .fuse_bias_gelu import dense_and_bias
from .matching import is_op, is_packed_attention, only_consumer, sizes_of
from .pass_base import Numerics, Pass
from .rewriter import GraphBuilder, Rewriter

_RULE = "merge-qkv"
_ROLES = ("query", "key", "value")
_MAX_NODES_BETWEEN = 32
_BETWEEN = frozenset(
    {
        "Add",
        "Cast",
        "Concat",
        "Div",
        "Expand",
        "LayerNormalization",
        "Mul",
        "Neg",
        "RMSNormalization",
        "Reshape",
        "RotaryEmbedding",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
    }
)
"""What may stand between a projection and the attention: biases, split heads, rotary positions,
normalized queries, repeated keys. It stays as it is, and reads its part of the merged product."""


class MergeQkv(Pass):
    """Merge the query, key and value projections of an attention that read the same value.

    One wide MatMul (and one Add, if each projection has a bias) in place of three narrow ones, and
    a Split. Widths may differ, as in grouped-query attention; in cross-attention key and value
    merge. The concatenated weight takes the place of the old ones; it is made once per set of
    weights, when it is read. Works on ``[B,S,D]`` and on packed ``[T,D]``.

    Before::

        before (float[B,S,8] x) => (float[B,S,8] y)
            <float[8,8] wq = {...}, float[8,4] wk = {...}, float[8,4] wv = {...},
             float[8] bq = {...}, float[4] bk = {1, 2, 3, 4}, float[4] bv = {5, 6, 7, 8}>
        {
            xq = MatMul (x, wq)
            q = Add (xq, bq)
            xk = MatMul (x, wk)
            k = Add (xk, bk)
            xv = MatMul (x, wv)
            v = Add (xv, bv)
            y = Attention <q_num_heads = 2, kv_num_heads = 1> (q, k, v)
        }

    After::

        after (float[B,S,8] x) => (float[B,S,8] y)
            <float[8,16] w = {...}, float[16] b = {...}, int64[3] widths = {8, 4, 4}>
        {
            xw = MatMul (x, w)
            qkv = Add (xw, b)
            q, k, v = Split <axis = -1> (qkv, widths)
            y = Attention <q_num_heads = 2, kv_num_heads = 1> (q, k, v)
        }
    """

    name = "merge-qkv"
    numerics = Numerics.REASSOCIATES
    after = ("canonicalize", "fold-constants", "fuse-attention", "remove-padding")

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Plan all merges first: whether a weight may go depends on all who use it."""
        groups = _plan(module, rewriter)
        merged: dict[tuple[ir.Value, ...], ir.Value] = {}
        for group in groups:
            if not _is_shared_with_others(group, groups):
                _merge(group, rewriter, merged)
                continue
            for member in group:
                reason = f"its weight {member.weight.name} has other users, and would stay as well"
                rewriter.miss(_RULE, member.matmul, reason)


@dataclasses.dataclass(frozen=True)
class _Projection:
    """``x @ weight + bias``; without a bias if there is none that is its alone."""

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    matmul: ir.Node
    addition: ir.Node | None


_Group = list[_Projection]


def _plan(module: Module, rewriter: Rewriter) -> list[_Group]:
    position = {node: index for index, node in enumerate(module.nodes())}
    planned: set[ir.Node] = set()
    groups: list[_Group] = []
    for attention in position:
        if not _is_attention(attention):
            continue
        by_input: dict[tuple[ir.Value, ir.Graph | ir.Function | None], _Group] = defaultdict(list)
        for projection in _projections(attention, rewriter):
            if projection.matmul not in planned:
                planned.add(projection.matmul)
                by_input[projection.x, projection.matmul.graph].append(projection)
        found = [group for group in by_input.values() if len(group) > 1]
        if not found and len(by_input) > 1:
            rewriter.miss(_RULE, attention, "no two of its projections read the same value")
        groups += found
    return groups


def _is_attention(node: ir.Node) -> bool:
    return is_op(node, "Attention") or is_packed_attention(node)


def _projections(attention: ir.Node, rewriter: Rewriter) -> Iterator[_Projection]:
    """The projections that feed an attention, each once, in the order query, key, value."""
    seen: set[ir.Node] = set()
    for role, value in zip(_ROLES, attention.inputs, strict=False):
        found = _trace(value)
        if isinstance(found, str):
            rewriter.miss(_RULE, attention, f"its {role} {found}")
        elif found.matmul not in seen:
            seen.add(found.matmul)
            yield found


def _trace(value: ir.Value | None) -> _Projection | str:
    """The one projection behind an operand of attention, or why there is none."""
    found: dict[ir.Node, None] = {}
    pending, seen = [value], set[ir.Node]()
    while pending and len(seen) < _MAX_NODES_BETWEEN:
        item = pending.pop()
        node = item.producer() if item is not None else None
        if node is None or node in seen:
            continue
        seen.add(node)
        if is_op(node, "MatMul") and _is_matrix(node.inputs[1]):
            found[node] = None
        elif is_op(node, *_BETWEEN) or (node.domain, node.op_type) == (DOMAIN, "Unpack"):
            pending += node.inputs
    if len(found) != 1:
        return f"comes from {len(found) or 'no'} products with constant matrices, expected one"
    return _projection(next(iter(found)))


def _is_matrix(value: ir.Value | None) -> bool:
    tensor = constant_value(value)
    return tensor is not None and len(sizes_of(tensor)) == 2


def _projection(matmul: ir.Node) -> _Projection | str:
    x, weight = matmul.inputs[:2]
    if x is None or weight is None:
        return "comes from a MatMul that lacks an operand"
    addition = only_consumer(matmul.outputs[0])
    operands = dense_and_bias(addition) if addition is not None and is_op(addition, "Add") else None
    if operands is None or operands[0] is not matmul.outputs[0]:
        return _Projection(x, weight, None, matmul, None)
    return _Projection(x, weight, operands[1], matmul, addition)


def _is_shared_with_others(group: _Group, groups: Sequence[_Group]) -> bool:
    """Whether a node that is not merged with these very weights reads one of them."""
    weights = _weights(group)
    merged = {member.matmul for other in groups if _weights(other) == weights for member in other}
    return any(user not in merged for weight in weights for user, _ in weight.uses())


def _weights(group: _Group) -> tuple[ir.Value, ...]:
    return tuple(member.weight for member in group)


def _merge(group: _Group, rewriter: Rewriter, merged: dict[tuple[ir.Value, ...], ir.Value]) -> None:
    biases = tuple(member.bias for member in group if member.bias is not None)
    with_bias = len(biases) == len(group)
    nodes = [member.matmul for member in group]
    if with_bias:
        nodes += [member.addition for member in group if member.addition is not None]
    first = _first(nodes)
    with rewriter.rewrite(_RULE, nodes, before=first) as builder:
        wide = builder.op("MatMul", [group[0].x, _joined(_weights(group), builder, merged)])
        if with_bias:
            wide = builder.op("Add", [wide, _joined(biases, builder, merged)])
        widths = [_width(member.weight) for member in group]
        sizes = builder.constant(np.array(widths, dtype=np.int64), "widths")
        part = builder.op("Split", [wide, sizes], {"axis": -1}, num_outputs=len(group))
        split = part.producer()
        assert split is not None
        for member, output in zip(group, split.outputs, strict=True):
            old = member.addition if with_bias and member.addition is not None else member.matmul
            builder.replace(old.outputs[0], output)


def _first(nodes: Sequence[ir.Node]) -> ir.Node:
    graph = nodes[0].graph
    assert graph is not None
    wanted = set(nodes)
    return next(node for node in graph if node in wanted)


def _width(weight: ir.Value) -> int:
    tensor = constant_value(weight)
    assert tensor is not None
    return sizes_of(tensor)[-1]


def _joined(
    values: tuple[ir.Value, ...],
    builder: GraphBuilder,
    merged: dict[tuple[ir.Value, ...], ir.Value],
) -> ir.Value:
    """The constants side by side, made when they are read; the same ones only once."""
    if values not in merged:
        parts = [tensor for value in values if (tensor := constant_value(value)) is not None]
        leading = sizes_of(parts[0])[:-1]
        width = sum(sizes_of(part)[-1] for part in parts)
        dtype = parts[0].dtype

        def joined() -> ir.TensorProtocol:
            arrays = [part.numpy() for part in parts]
            return ir.tensor(np.concatenate(arrays, axis=-1), dtype=dtype)

        lazy = ir.LazyTensor(joined, dtype=dtype, shape=ir.Shape([*leading, width]))
        merged[values] = builder.tensor(lazy, "qkv_weight" if leading else "qkv_bias")
    return merged[values]
