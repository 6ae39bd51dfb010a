"""What an attention mask does to padded keys, shown by following it from the padding mask.

Abstract interpretation over the few operators that masks are made of. A *fact* about a value says
which of its axes are indexed by the padding mask's batch and sequence, and in which interval its
entries lie when all those positions are valid, and when one of them is padding. Nothing is assumed
about where padding lies in a row.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

import onnx_ir as ir

from dechaff.ir import ShapeData, constant_value
from dechaff.passes.matching import integer_attribute, permutation

from .facts import UNKNOWN, Fact, combine, constant_fact
from .intervals import ANYTHING, BOOLEAN, ONE, ZERO, Interval, compare, truth

MASKED_BELOW = -9999.0
"""A bias at or below this hides a key: BERT's original -10000 does, as scores span far less."""

_LONGEST = 2.0**31
"""No sequence has more tokens: masks over it would fit no memory. Positions stay finite by it."""

_MAX_DEPTH = 200


class Visibility(enum.Enum):
    """What valid queries see of the valid keys of their row."""

    FULL = "all"
    CAUSAL = "those at or before their own position"
    MASKED = "those that the mask shows, weighed as it says"


class MaskFacts:
    """Facts about values, relative to a padding mask.

    Args:
        root: the mask, ``[B, S]``, of zeros and ones.
        zero_is_valid: whether its ones are padding, and not its zeros.
    """

    def __init__(self, root: ir.Value, zero_is_valid: bool = False) -> None:
        self.sizes = ShapeData()
        valid, padded = (ZERO, ONE) if zero_is_valid else (ONE, ZERO)
        self._facts: dict[ir.Value, Fact] = {root: Fact(-2, valid, {-1: padded})}
        self._depth = 0

    def of(self, value: ir.Value | None) -> Fact:
        """The fact about a value; :data:`UNKNOWN` where nothing can be shown."""
        if value is None:
            return UNKNOWN
        if value not in self._facts:
            if self._depth > _MAX_DEPTH:
                return UNKNOWN
            self._depth += 1
            self._facts[value] = self._compute(value)
            self._depth -= 1
        return self._facts[value]

    def hides_padded_keys(self, mask: ir.Value) -> bool:
        """Whether ``mask`` ([..., Sq, Sk]) lets no query attend to a padded key."""
        fact = self.of(mask)
        if fact.batch_axis != -4 or -1 not in fact.padded:
            return False
        interval = fact.at(-1)
        return interval == ZERO if _is_bool(mask) else interval.high <= MASKED_BELOW

    def among_valid(self, mask: ir.Value) -> Visibility | None:
        """What ``mask`` lets valid queries see of valid keys; None if that is neither kind."""
        fact = self.of(mask)
        if fact.valid != (ONE if _is_bool(mask) else ZERO):
            return None
        if fact.in_future == fact.valid:
            return Visibility.FULL
        hidden = fact.in_future == ZERO if _is_bool(mask) else fact.in_future.high <= MASKED_BELOW
        return Visibility.CAUSAL if hidden and fact.causal_axes == (-2, -1) else None

    def changes_padded_queries(self, attention: ir.Node, mask: ir.Value) -> str | None:
        """Why a padded query may not see the valid keys of its row as another does; else None.

        Under a finite bias a query that sees no key at all sees padding, each key alike.
        """
        fact = self.of(mask)
        if -2 in fact.padded:
            return "the mask treats padded queries apart"
        lowest = min(fact.valid.low, fact.in_future.low)
        hides_valid_keys = lowest <= MASKED_BELOW or integer_attribute(attention, "is_causal", 0)
        if not _is_bool(mask) and hides_valid_keys:
            return "under its mask a padded query may see no token, only padding"
        return None

    def is_zero_at_padding(self, value: ir.Value, batch_axis: int, sequence_axis: int) -> bool:
        """Whether entries are zero wherever the index of ``sequence_axis`` is padding."""
        fact = self.of(value)
        return fact.batch_axis == batch_axis and fact.padded.get(sequence_axis) == ZERO

    def _compute(self, value: ir.Value) -> Fact:
        constant = constant_value(value)
        if constant is not None:
            return constant_fact(constant)
        node = value.producer()
        default = Fact(None, BOOLEAN) if _is_bool(value) else UNKNOWN
        if node is None or node.domain != "":
            return default
        rule = _RULES.get(node.op_type)
        return (rule(self, node) if rule else None) or default


def _is_bool(value: ir.Value) -> bool:
    return value.dtype is ir.DataType.BOOL


Rule = Callable[[MaskFacts, ir.Node], Fact | None]


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


_RULES: dict[str, Rule] = {
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
    "Slice": _slice,
}
