"""How operators combine what is known of masks: one table, operator -> rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from dechaff.passes.matching import integer_attribute, permutation

from .facts import Fact, combine, constant_fact
from .intervals import ANYTHING, BOOLEAN, ONE, ZERO, Interval, compare, truth

if TYPE_CHECKING:
    from .mask_facts import MaskFacts

_LONGEST = 2.0**31
"""No sequence has more tokens: masks over it would fit no memory. Positions stay finite by it."""


Rule = Callable[["MaskFacts", ir.Node], Fact | None]


def _elementwise(change: Callable[..., Interval]) -> Rule:
    def rule(facts: MaskFacts, node: ir.Node) -> Fact | None:
        return combine([facts.of(value) for value in node.inputs], change)

    return rule


def _comparison(op_type: str) -> Rule:
    def rule(facts: MaskFacts, node: ir.Node) -> Fact | None:
        left, right = (facts.of(value) for value in node.inputs)
        if left.position_axis is not None and right.position_axis is not None:
            return _compared_positions(left.position_axis, right.position_axis, op_type)
        return combine([left, right], lambda a, b: compare(a, b, op_type))

    return rule


def _compared_positions(left: int, right: int, op_type: str) -> Fact | None:
    """``left <= right`` and its kin, of two indices: true on one side of the diagonal."""
    if left == right:
        return None
    if op_type == "LessOrEqual":
        return Fact(None, ONE, {}, ZERO, (right, left))
    if op_type == "GreaterOrEqual":
        return Fact(None, ONE, {}, ZERO, (left, right))
    if op_type == "Greater":
        return Fact(None, ZERO, {}, ONE, (right, left))
    return Fact(None, ZERO, {}, ONE, (left, right)) if op_type == "Less" else None


def _cast(facts: MaskFacts, node: ir.Node) -> Fact | None:
    fact, dtype = facts.of(node.inputs[0]), node.outputs[0].dtype
    if fact.position_axis is not None and dtype is not ir.DataType.BOOL:
        return fact
    if dtype is ir.DataType.BOOL:
        return fact.mapped(truth)
    return fact.mapped(_truncated) if dtype is not None and dtype.is_integer() else fact


def _truncated(interval: Interval) -> Interval:
    """Bounds after a cast to an integer, which rounds towards zero."""
    if math.isinf(interval.low) or math.isinf(interval.high):
        return ANYTHING
    return Interval(math.floor(interval.low), math.ceil(interval.high))


def _choose(condition: Interval, yes: Interval, no: Interval) -> Interval:
    if condition == ONE:
        return yes
    return no if condition == ZERO else yes.hull(no)


def _product(left: float, right: float) -> float:
    return left * right


def _quotient(left: Interval, right: Interval) -> Interval:
    if right.low <= 0 <= right.high:
        return ANYTHING
    return left.corners(right, lambda a, b: a / b)


def _same(facts: MaskFacts, node: ir.Node) -> Fact | None:
    return facts.of(node.inputs[0])


def _regrouped(facts: MaskFacts, node: ir.Node) -> Fact | None:
    """``Reshape`` and its kin, where they only add or drop axes of size 1."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None:
        return None
    before = _real_axes(source.shape)
    after = _real_axes(result.shape)
    sizes = [size for _, size in before]
    if None in sizes or sizes != [size for _, size in after]:
        return None
    moved = {old: new for (old, _), (new, _) in zip(before, after, strict=True)}
    return facts.of(source).moved(moved)


def _real_axes(shape: ir.Shape) -> list[tuple[int, object]]:
    """Axes of a size other than 1, counted from the right, with their sizes."""
    sizes = [dim if isinstance(dim, int) else dim.value for dim in shape]
    return [(index - len(sizes), size) for index, size in enumerate(sizes) if size != 1]


def _transpose(facts: MaskFacts, node: ir.Node) -> Fact | None:
    perm = permutation(node)
    if perm is None:
        return None
    size = len(perm)
    moved = {source - size: index - size for index, source in enumerate(perm)}
    return facts.of(node.inputs[0]).moved(moved)


def _slice(facts: MaskFacts, node: ir.Node) -> Fact | None:
    """A slice from the front keeps each index; any other moves it."""
    starts = facts.sizes.evaluate(node.inputs[1])
    steps = facts.sizes.evaluate(node.inputs[4]) if len(node.inputs) > 4 else (1,)
    if starts is None or any(start != 0 for start in starts):
        return None
    if steps is None or any(step != 1 for step in steps):
        return None
    return facts.of(node.inputs[0])


def _range(facts: MaskFacts, node: ir.Node) -> Fact | None:
    """Positions count up from the start; where they end is not known here."""
    start, _, step = (facts.of(value).valid for value in node.inputs)
    if step.low < 0:
        return None
    counts = start == ZERO and step == ONE
    last = start.high + step.high * _LONGEST
    return Fact(None, Interval(start.low, last), position_axis=-1 if counts else None)


def _triangle(facts: MaskFacts, node: ir.Node) -> Fact | None:
    """``Trilu`` of one number: what is behind the diagonal, and 0 on the other side, or reverse."""
    entries, offset = facts.of(node.inputs[0]), ZERO
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        offset = facts.of(node.inputs[1]).valid
    if entries != Fact(None, entries.valid):
        return None
    if integer_attribute(node, "upper", 1):
        return Fact(None, ZERO, {}, entries.valid, (-2, -1)) if offset == ONE else None
    return Fact(None, entries.valid, {}, ZERO, (-2, -1)) if offset == ZERO else None


def _running_sum(facts: MaskFacts, node: ir.Node) -> Fact | None:
    """Sums along an axis: positions counted from the mask itself."""
    entries = facts.of(node.inputs[0]).anywhere
    low, high = min(0.0, entries.low * _LONGEST), max(0.0, entries.high * _LONGEST)
    return Fact(None, Interval(low, high))


def _add(facts: MaskFacts, node: ir.Node) -> Fact | None:
    left, right = (facts.of(value) for value in node.inputs)
    for fact, other in ((left, right), (right, left)):
        if fact.position_axis is not None and other == Fact(None, ZERO):
            return fact
    return combine([left, right], lambda a, b: a.corners(b, lambda x, y: x + y))


def _looked_up(facts: MaskFacts, node: ir.Node) -> Fact | None:
    """Entries of a table, whichever are picked: relative position biases, slopes of heads."""
    return Fact(None, facts.of(node.inputs[0]).anywhere)


def _filled(facts: MaskFacts, node: ir.Node) -> Fact | None:
    fill = node.attributes.get("value")
    return Fact(None, ZERO) if fill is None else constant_fact(fill.as_tensor())


MASK_RULES: dict[str, Rule] = {
    "Add": _add,
    "Sub": _elementwise(lambda a, b: a.corners(b, lambda x, y: x - y)),
    "Mul": _elementwise(lambda a, b: a.corners(b, _product)),
    "CumSum": _running_sum,
    "Div": _elementwise(_quotient),
    "Max": _elementwise(lambda a, b: a.corners(b, max)),
    "Min": _elementwise(lambda a, b: a.corners(b, min)),
    "And": _elementwise(lambda a, b: a.corners(b, min)),
    "Or": _elementwise(lambda a, b: a.corners(b, max)),
    "Not": _elementwise(lambda a: Interval(1 - a.high, 1 - a.low)),
    "Neg": _elementwise(lambda a: Interval(-a.high, -a.low)),
    "Where": _elementwise(_choose),
    "Equal": _comparison("Equal"),
    "Greater": _comparison("Greater"),
    "GreaterOrEqual": _comparison("GreaterOrEqual"),
    "Less": _comparison("Less"),
    "LessOrEqual": _comparison("LessOrEqual"),
    "IsInf": _elementwise(
        lambda a: ZERO if not (math.isinf(a.low) or math.isinf(a.high)) else BOOLEAN
    ),
    "Cast": _cast,
    "Range": _range,
    "ConstantOfShape": _filled,
    "Identity": _same,
    "Expand": _same,
    "Gather": _looked_up,
    "Reshape": _regrouped,
    "Squeeze": _regrouped,
    "Unsqueeze": _regrouped,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Slice": _slice,
}
