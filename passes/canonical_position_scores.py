"""Rules of ``canonicalize`` for scores by distance, heads folded into the batch; exact to the bit.

DeBERTa computes them for ``[B * H, S, K]``, each query against ``K`` distances, repeats the table
of distances for every row, and picks each key's distance with ``GatherElements``.
"""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import shape_expressions

from .canonical_heads import build_unfolded, has_one_batch, leads_alike, splits, unfolded
from .matching import integer_attribute, is_op, is_private, made_by, permutation, rank
from .replacement import Replacement
from .rewriter import GraphBuilder, Rewriter

_SWAPPED = (0, 2, 1)


def unfold_gathered_scores(node: ir.Node, rewriter: Rewriter) -> Replacement | None:
    """Scores ``[B * H, S, T]`` picked from ``[B * H, S, K]``: computed for ``[B, H, S, K]``.

    The table ``[H, d, K]`` is then read by every row, and not repeated for each.
    """
    product = made_by(node.inputs[0], "MatMul")
    if product is None or rank(node.outputs[0]) != 3:
        return None
    if integer_attribute(node, "axis", 0) not in (-1, 2):
        return None
    fold = made_by(product.inputs[0], "Reshape")
    states = fold.inputs[0] if fold is not None else None
    if states is None or not splits(product.inputs[0], states):
        return None
    table, shared = _table_of_heads(product.inputs[1], rewriter), _same_for_all(node.inputs[1])
    if table is None or shared is None:
        return None
    if not is_private(product.outputs[0], [node]) or not _fits(states, table):
        return None

    def build(builder: GraphBuilder) -> ir.Value:
        picked = _pick(states, table, shared, builder)
        sizes = builder.op("Shape", [node.inputs[1]])
        return builder.op("Reshape", [picked, sizes], {"allowzero": 1})

    return Replacement("unfold-gathered-scores", [product, node], build)


def _pick(states: ir.Value, table: ir.Value, shared: ir.Value, builder: GraphBuilder) -> ir.Value:
    """``[B, H, S, T]`` of ``[B, H, S, d]``, ``[H, K, d]`` and the places ``[1, S, T]``."""
    across = builder.op("Transpose", [table], {"perm": list(_SWAPPED)})
    scores = builder.op("MatMul", [states, across])
    leading = builder.op("Shape", [states], {"start": 0, "end": 2})
    pairs = builder.op("Shape", [shared], {"start": 1})
    places = builder.op("Expand", [shared, builder.op("Concat", [leading, pairs], {"axis": 0})])
    return builder.op("GatherElements", [scores, places], {"axis": -1})


def _table_of_heads(value: ir.Value | None, rewriter: Rewriter) -> ir.Value | None:
    """``[H, K, d]`` that ``Tile`` repeats for every row, and ``Transpose`` turns."""
    swap = made_by(value, "Transpose")
    tile = made_by(swap.inputs[0], "Tile") if swap is not None else None
    if swap is None or tile is None or permutation(swap) != _SWAPPED:
        return None
    times = rewriter.shape_data.evaluate(tile.inputs[1])
    if times is None or len(times) != 3 or times[1:] != (1, 1):
        return None
    return tile.inputs[0]


def _same_for_all(value: ir.Value | None) -> ir.Value | None:
    """``[1, S, T]`` that ``Expand`` repeats for all heads of all rows."""
    expand = made_by(value, "Expand")
    source = expand.inputs[0] if expand is not None else None
    if source is None or source.shape is None or value is None or value.shape is None:
        return None
    if len(source.shape) != 3 or source.shape[0] != 1:
        return None
    own, wide = shape_expressions(source), shape_expressions(value)
    return source if own is not None and wide is not None and own[1:] == wide[1:] else None


def _is_for_all(value: ir.Value | None) -> bool:
    """Whether a summand is broadcast over all heads of all rows."""
    if value is None or value.shape is None:
        return False
    return len(value.shape) < 3 or has_one_batch(value)


def _fits(states: ir.Value, table: ir.Value) -> bool:
    """Whether the table's heads are those of the states ``[B, H, S, d]``."""
    own, heads = shape_expressions(states), shape_expressions(table)
    return own is not None and heads is not None and heads[0] is not None and own[1] == heads[0]


def unfold_sum_of_scores(node: ir.Node, _: Rewriter) -> Replacement | None:
    """A sum of folded scores or masks ``[B * H, S, T]`` that is split again: added unfolded.

    What is ``[1, S, T]``, as the causal mask of ``nn.TransformerEncoder``, is the same for all.
    """
    folded, split = node.inputs[0], node.outputs[0]
    step = made_by(folded, "Add", "Sub")
    if step is None or folded is None or rank(split) != 4 or not splits(folded, split):
        return None
    sources = [unfolded(operand) for operand in step.inputs if not _is_for_all(operand)]
    readers = [user for user, _ in folded.uses() if not is_op(user, "Shape")]
    if readers != [node] or folded.is_graph_output():
        return None
    if not sources or not all(leads_alike(source, split) for source in sources):
        return None

    def build(builder: GraphBuilder) -> ir.Value:
        leading = builder.op("Shape", [sources[0]], {"start": 0, "end": 2})
        return build_unfolded(folded, [step], leading, builder)

    return Replacement("unfold-sum-of-scores", [step, node], build)
