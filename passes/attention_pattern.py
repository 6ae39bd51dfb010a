"""Finds attention spelled in primitive operators, whatever its exporter.

The search starts at the ``MatMul`` of probabilities and values and walks backwards through what
may stand in between: the guard against empty rows, the mask in its additive and its selecting
spelling, the scale on the scores or on either operand. Meaning is matched, not spelling.
"""

from __future__ import annotations

import dataclasses
import math

import onnx_ir as ir

from .matching import integer_attribute, made_by, permutation, rank, scalar, scalar_operand

_HUGE_FILL = -1e30
"""A fill at or below this swallows any score added to it, as masking by selection does."""

_SWAP_LAST_TWO = (0, 1, 3, 2)


class NoMatch(Exception):  # noqa: N818  (control flow, not an error)
    """The walk ended at something that is not attention; the reason is for the report."""


@dataclasses.dataclass
class MaskTerm:
    """One mask on the scores.

    Attributes:
        value: added to the scores, or the condition that selects between scores and fill.
        fill: None for an additive mask; else what masked scores are replaced by.
        masked_where: for a condition, whether scores are masked where it is True.
        factor: of an additive mask; -1 where it is taken from the scores.
    """

    value: ir.Value
    fill: float | None = None
    masked_where: bool = True
    factor: float = 1.0


@dataclasses.dataclass
class AttentionMatch:
    """Attention found in primitive operators.

    Attributes:
        query: ``[B, H, Sq, d]``.
        key_transposed: ``[B, H, d, Sk]``.
        value: ``[B, H, Sk, dv]``.
        scale: factor on the scores, all spellings multiplied together.
        masks: masks on the scores.
        empty_rows_are_zero: whether rows whose keys are all masked give zeros (torch's guard
            against NaN) and not the mean of the values.
        nodes: the matched nodes, first to last.
        softcap: scores are bent to ``softcap * tanh(scores / softcap)`` before masking; 0: not.
    """

    query: ir.Value
    key_transposed: ir.Value
    value: ir.Value
    scale: float
    masks: list[MaskTerm]
    empty_rows_are_zero: bool
    nodes: list[ir.Node]
    softcap: float = 0.0


def match_attention(context: ir.Node) -> AttentionMatch | None:
    """Match attention whose last operation is ``context``, the ``MatMul`` with the values.

    Returns:
        The match, or None if the node is no such ``MatMul`` at all.

    Raises:
        NoMatch: there is a softmax, so it looks like attention, but a condition fails.
    """
    nodes = [context]
    probabilities, value = context.inputs[0], context.inputs[1]
    softmax, guarded = _match_softmax(probabilities, nodes)
    if softmax is None or value is None:
        return None
    if rank(value) != 4 or rank(softmax.outputs[0]) != 4:
        raise NoMatch("query, key and value must have rank 4: [batch, heads, sequence, head_size]")
    axis = integer_attribute(softmax, "axis", -1)
    if axis not in (-1, 3):
        raise NoMatch(f"Softmax runs over axis {axis}; attention's runs over the last")
    inner = [n for n in nodes if n is not context]
    if any(_used_outside(node.outputs[0], nodes) for node in inner):
        raise NoMatch("the attention probabilities are used elsewhere")
    masks: list[MaskTerm] = []
    scale, softcap, scores = _match_scores(softmax.inputs[0], masks, nodes)
    query, query_scale = _peel_scale(scores.inputs[0], nodes)
    key, key_scale = _peel_scale(scores.inputs[1], nodes)
    return AttentionMatch(
        query=query,
        key_transposed=key,
        value=value,
        scale=scale * query_scale * key_scale,
        masks=masks,
        empty_rows_are_zero=guarded,
        nodes=list(reversed(nodes)),
        softcap=softcap,
    )


def key_before_transpose(key_transposed: ir.Value) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What was transposed into ``[B, H, d, Sk]``, and the permutation that gives ``[B, H, Sk, d]``.

    The permutation is empty where the transposed value has that layout already.
    """
    node = made_by(key_transposed, "Transpose")
    if node is None or node.inputs[0] is None or rank(key_transposed) != 4:
        return None
    perm = permutation(node)
    if perm is None:
        return None
    wanted = tuple(perm[axis] for axis in _SWAP_LAST_TWO)
    return node.inputs[0], () if wanted == (0, 1, 2, 3) else wanted


def _match_softmax(value: ir.Value | None, nodes: list[ir.Node]) -> tuple[ir.Node | None, bool]:
    guarded = False
    while True:
        step = made_by(value, "Identity", "Dropout", "Where", "Softmax")
        if step is None:
            return None, guarded
        if step.op_type == "Where":
            value = _unguarded(step, nodes)
            if value is None:
                return None, guarded
            guarded = True
            continue
        nodes.append(step)
        if step.op_type == "Softmax":
            return step, guarded
        value = step.inputs[0]


def _unguarded(where: ir.Node, nodes: list[ir.Node]) -> ir.Value | None:
    """``Where(IsNaN(p), 0, p)`` gives ``p``: torch's zeros for rows without a key."""
    test, zero, probabilities = where.inputs
    is_nan = made_by(test, "IsNaN")
    if is_nan is None or scalar(zero) != 0 or is_nan.inputs[0] is not probabilities:
        return None
    nodes += [where, is_nan]
    return probabilities


def _used_outside(value: ir.Value, nodes: list[ir.Node]) -> bool:
    return value.is_graph_output() or any(use.node not in nodes for use in value.uses())


def _match_scores(
    value: ir.Value | None, masks: list[MaskTerm], nodes: list[ir.Node]
) -> tuple[float, float, ir.Node]:
    """Walk from the softmax's operand to the ``MatMul`` of query and key: scale, softcap, it."""
    scale, softcap = 1.0, 0.0
    while True:
        node = made_by(value, "MatMul", "Add", "Sub", "Mul", "Div", "Where", "Identity", "Tanh")
        if node is None:
            raise NoMatch("the softmax's operand does not lead to a MatMul of query and key")
        nodes.append(node)
        if node.op_type == "MatMul":
            return scale, softcap, node
        if node.op_type in ("Mul", "Div"):
            value, factor = _split_scale(node)
            scale *= factor
            continue
        if node.op_type == "Tanh":
            if softcap or scale <= 0:
                raise NoMatch(
                    "a Tanh on the scores is no soft-capping: softcap * tanh(x / softcap)"
                )
            softcap, value = scale, node.inputs[0]
            continue
        if node.op_type == "Identity":
            value = node.inputs[0]
            continue
        if softcap:
            raise NoMatch("the mask is added before soft-capping, which would bend it too")
        if scale <= 0:
            raise NoMatch("a factor behind the mask turns it around")
        value, mask = _split_mask(node)
        if mask.fill is not None and mask.fill * scale > _HUGE_FILL:
            raise NoMatch(f"masked scores become {mask.fill * scale}, which hides nothing")
        masks.append(dataclasses.replace(mask, factor=scale * mask.factor))


def _split_scale(node: ir.Node) -> tuple[ir.Value | None, float]:
    if node.op_type == "Div":
        number = scalar(node.inputs[1])
        if not number:
            raise NoMatch(f"the scores are divided by {node.inputs[1]!r}, which is no constant")
        return node.inputs[0], 1.0 / number
    found = scalar_operand(node)
    if found is None:
        raise NoMatch("the scores are multiplied by something that is no scalar constant")
    return found


def _split_mask(node: ir.Node) -> tuple[ir.Value, MaskTerm]:
    if node.op_type == "Add":
        left, right = node.inputs
        if left is not None and right is not None:
            if _leads_to_matmul(left):
                return left, MaskTerm(right)
            if _leads_to_matmul(right):
                return right, MaskTerm(left)
        raise NoMatch("neither operand of the Add before the softmax comes from a MatMul")
    if node.op_type == "Sub":
        scores, taken = node.inputs
        if scores is not None and taken is not None and _leads_to_matmul(scores):
            return scores, MaskTerm(taken, factor=-1.0)
        raise NoMatch("what the Sub before the softmax takes from does not come from a MatMul")
    condition, if_true, if_false = node.inputs
    for scores, fill, masked_where in ((if_false, if_true, True), (if_true, if_false, False)):
        number = scalar(fill)
        if condition is None or scores is None or number is None:
            continue
        if not (number <= _HUGE_FILL or math.isinf(number)):
            raise NoMatch(f"masked scores become {number}, too small to be the same as adding it")
        return scores, MaskTerm(condition, number, masked_where)
    raise NoMatch("the Where before the softmax does not choose between scores and a constant")


def _leads_to_matmul(value: ir.Value) -> bool:
    """Whether scores, not a mask, flow through ``value``: a rank-4 MatMul is behind it."""
    current: ir.Value | None = value
    for _ in range(8):
        node = made_by(current, "MatMul", "Mul", "Div", "Add", "Sub", "Where", "Identity", "Tanh")
        if node is None:
            return False
        if node.op_type == "MatMul":
            return rank(node.outputs[0]) == 4
        if node.op_type == "Where":
            return any(v is not None and _leads_to_matmul(v) for v in node.inputs[1:])
        if node.op_type == "Add":
            return any(v is not None and _leads_to_matmul(v) for v in node.inputs)
        found = scalar_operand(node) if node.op_type == "Mul" else None
        current = found[0] if found else node.inputs[0]
    return False


def _peel_scale(value: ir.Value | None, nodes: list[ir.Node]) -> tuple[ir.Value, float]:
    """An operand of the score ``MatMul`` without the scalar factors on it."""
    factor = 1.0
    while True:
        node = made_by(value, "Mul", "Div")
        number: float | None = None
        rest = value
        if node is not None and node.op_type == "Mul":
            found = scalar_operand(node)
            rest, number = found if found else (value, None)
        elif node is not None:
            divisor = scalar(node.inputs[1])
            rest, number = (node.inputs[0], 1.0 / divisor) if divisor else (value, None)
        if node is None or number is None:
            if value is None:
                raise NoMatch("an operand of the score MatMul is missing")
            return value, factor
        factor *= number
        nodes.append(node)
        value = rest
