"""What an attention mask does to padded keys, shown by following it from the padding mask.

Abstract interpretation over the few operators that masks are made of. A *fact* about a value says
which of its axes are indexed by the padding mask's batch and sequence, and in which interval its
entries lie when all those positions are valid, and when one of them is padding. Nothing is assumed
about where padding lies in a row.
"""

from __future__ import annotations

import enum

import onnx_ir as ir

from dechaff.ir import ShapeData, constant_value
from dechaff.passes.matching import integer_attribute

from .facts import UNKNOWN, Fact, constant_fact
from .intervals import BOOLEAN, ONE, ZERO
from .mask_rules import MASK_RULES

MASKED_BELOW = -9999.0
"""A bias at or below this hides a key: BERT's original -10000 does, as scores span far less."""

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
        rule = MASK_RULES.get(node.op_type)
        return (rule(self, node) if rule else None) or default


def _is_bool(value: ir.Value) -> bool:
    return value.dtype is ir.DataType.BOOL
