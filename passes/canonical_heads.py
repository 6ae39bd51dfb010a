"""Rule of ``canonicalize`` for heads that were folded into the batch; exact to the bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from dechaff.ir import shape_expressions

from .matching import is_private, made_by, permutation, rank, scalar
from .replacement import Replacement
from .rewriter import GraphBuilder, Rewriter

_SWAPPED = (0, 2, 1)
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")


def unfold_heads(node: ir.Node, _: Rewriter) -> Replacement | None:
    """``[B * H, S, T]`` products that are split into ``[B, H, S, T]``: computed so at once.

    What ``torch.bmm`` and ``torch.baddbmm`` of folded heads become; additions of biases and scales
    in between go along.
    """
    folded, split = node.inputs[0], node.outputs[0]
    if rank(folded) != 3 or rank(split) != 4 or not splits(folded, split):
        return None
    inside = list(_chain(folded))
    product = next((step for step in inside if step.op_type == "MatMul"), None)
    if product is None or any(not is_private(s.outputs[0], [*inside, node]) for s in inside):
        return None
    sources = [unfolded(operand) for operand in product.inputs]
    if not all(leads_alike(source, split) for source in sources):
        return None
    if not all(_broadcasts_alike(step, folded) for step in inside):
        return None
    source = sources[0]

    def build(builder: GraphBuilder) -> ir.Value:
        leading = builder.op("Shape", [source], {"start": 0, "end": 2})
        return build_unfolded(folded, inside, leading, builder)

    return Replacement("unfold-heads", [*reversed(inside), node], build)


def split_heads_at_once(node: ir.Node, _: Rewriter) -> Replacement | None:
    """Heads split while they are folded into the batch: ``[S, B, H * d]`` to ``[B, H, S, d]``.

    ``nn.MultiheadAttention`` views ``[S, B * H, d]``, transposes to ``[B * H, S, d]``, and splits.
    """
    turn = made_by(node.inputs[0], "Transpose")
    fold = made_by(turn.inputs[0], "Reshape") if turn is not None else None
    if turn is None or fold is None or permutation(turn) != (1, 0, 2):
        return None
    x, split = fold.inputs[0], shape_expressions(node.outputs[0])
    own, folded = shape_expressions(x), shape_expressions(fold.outputs[0])
    if x is None or own is None or folded is None or split is None:
        return None
    if len(own) != 3 or len(split) != 4 or not (split[1].is_Integer and split[3].is_Integer):
        return None
    batch, heads, sequence, size = split
    if own != (sequence, batch, heads * size) or folded != (sequence, batch * heads, size):
        return None
    target = np.array([0, 0, int(heads), int(size)], np.int64)

    def build(builder: GraphBuilder) -> ir.Value:
        apart = builder.op("Reshape", [x, builder.constant(target, "split")])
        return builder.op("Transpose", [apart], {"perm": [1, 2, 0, 3]})

    return Replacement("split-heads-at-once", [fold, turn, node], build)


def leads_alike(value: ir.Value | None, split: ir.Value) -> bool:
    """Whether batch and heads are those of the result, in this order."""
    own, sizes = shape_expressions(value), shape_expressions(split)
    return own is not None and sizes is not None and None not in own[:2] and own[:2] == sizes[:2]


def _broadcasts_alike(step: ir.Node, folded: ir.Value | None) -> bool:
    """Whether other operands of an elementwise step have one entry per head, or one for all."""
    if step.op_type == "MatMul":
        return True
    all_heads = shape_expressions(folded)
    for operand in step.inputs:
        sizes = shape_expressions(operand)
        if sizes is None or all_heads is None or len(sizes) > 3:
            return False
        if len(sizes) == 3 and sizes[0] not in (1, all_heads[0]):
            return False
    return True


def splits(folded: ir.Value | None, split: ir.Value | None) -> bool:
    """Whether ``[B, H, S, T]`` is ``[B * H, S, T]`` with its first axis split, or the reverse."""
    narrow, wide = shape_expressions(folded), shape_expressions(split)
    if narrow is None or wide is None or None in narrow or None in wide:
        return False
    return len(narrow) == 3 and len(wide) == 4 and narrow[1:] == wide[2:]


def _chain(value: ir.Value | None) -> Iterator[ir.Node]:
    """From the value back to the one product that it comes from, by elementwise operations."""
    step = made_by(value, "MatMul", *_ELEMENTWISE)
    if step is None:
        return
    if step.op_type == "MatMul":
        yield step
        return
    ways = [list(_chain(operand)) for operand in step.inputs]
    found = [way for way in ways if way and unfolded(way[-1].inputs[0]) is not None]
    if found:
        yield step
        yield from found[0]


def unfolded(value: ir.Value | None) -> ir.Value | None:
    """``[B, H, S, d]`` of which ``value`` is ``[B * H, S, d]``, by ``Reshape``."""
    node = made_by(value, "Transpose", "Reshape", "Mul", "Div")
    if node is None or rank(value) != 3:
        return None
    if node.op_type == "Transpose":
        return unfolded(node.inputs[0]) if permutation(node) == _SWAPPED else None
    if node.op_type in ("Mul", "Div"):
        return unfolded(node.inputs[0]) if scalar(node.inputs[1]) is not None else None
    return node.inputs[0] if splits(value, node.inputs[0]) else None


def build_unfolded(
    value: ir.Value | None, inside: list[ir.Node], leading: ir.Value, builder: GraphBuilder
) -> ir.Value:
    """The value with its first axis split in two."""
    assert value is not None
    node = value.producer()
    if rank(value) != 3:  # a scalar, or a bias that is the same for all heads
        return value
    if node is not None and node in inside:
        operands = [build_unfolded(operand, inside, leading, builder) for operand in node.inputs]
        return builder.op(node.op_type, operands)
    reshape = made_by(value, "Reshape")
    if reshape is not None and splits(value, reshape.inputs[0]):
        assert reshape.inputs[0] is not None
        return reshape.inputs[0]
    if node is not None and unfolded(value) is not None:
        first = build_unfolded(node.inputs[0], inside, leading, builder)
        if node.op_type == "Transpose":
            return builder.op("Transpose", [first], {"perm": [0, 1, 3, 2]})
        return builder.op(node.op_type, [first, node.inputs[1]])
    rest = builder.op("Shape", [value], {"start": 1})
    if has_one_batch(value):
        one = builder.constant(np.array([1, 1], np.int64), "one_batch")
        leading = one
    sizes = builder.op("Concat", [leading, rest], {"axis": 0})
    return builder.op("Reshape", [value, sizes], {"allowzero": 1})


def has_one_batch(value: ir.Value) -> bool:
    """Whether the first axis is broadcast over all heads of all rows."""
    return value.shape is not None and value.shape[0] == 1
