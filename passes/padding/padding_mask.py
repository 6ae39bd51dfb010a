"""The mask that tells tokens from padding, found from the masks of the attentions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from dechaff.passes.matching import is_op, rank

from .layouts import same_size
from .mask_facts import MaskFacts

KEEPS_POSITIONS = ("Cast", "Identity", "Slice", "Unsqueeze", "Squeeze", "Reshape")
_MASK_TYPES = (
    ir.DataType.BOOL,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
)


def masked_attentions(attentions: Sequence[ir.Node]) -> list[ir.Node]:
    """The standard ``Attention`` operators among these that have a mask."""
    return [n for n in attentions if len(n.inputs) > 3 and n.inputs[3] is not None]


@dataclasses.dataclass(frozen=True)
class PaddingMask:
    """A mask that tells tokens from padding.

    Attributes:
        value: ``[B, S]``, of zeros and ones.
        zero_is_valid: whether its ones are padding, and not its zeros.
    """

    value: ir.Value
    zero_is_valid: bool

    def is_hidden_by(self, attention: ir.Node) -> bool:
        """Whether the attention's own mask is shown to hide what this one calls padding."""
        mask = attention.inputs[3] if len(attention.inputs) > 3 else None
        return mask is not None and self._facts.hides_padded_keys(mask)

    @functools.cached_property
    def _facts(self) -> MaskFacts:
        return MaskFacts(self.value, self.zero_is_valid)


def find_padding_mask(masked: Sequence[ir.Node]) -> PaddingMask | None:
    """The mask that most of these attentions are shown to hide the padding of.

    Of equals it is the last one, which is nearest to the inputs.
    """
    best, most = None, 1
    for candidate in _candidates(masked):
        for mask in (PaddingMask(candidate, False), PaddingMask(candidate, True)):
            hidden = sum(mask.is_hidden_by(node) for node in masked)
            if hidden >= most:
                best, most = mask, hidden
    return best


def has_candidates(masked: Sequence[ir.Node]) -> bool:
    """Whether anything that these masks are computed from might tell padding from tokens."""
    return next(_candidates(masked), None) is not None


def _candidates(attentions: Sequence[ir.Node]) -> Iterator[ir.Value]:
    """Values shaped ``[B, S]`` that the attention masks are computed from, nearest first."""
    seen: set[ir.Value] = set()
    for attention in attentions:
        pending = [attention.inputs[3]]
        while pending:
            value = pending.pop(0)
            if value is None or value in seen:
                continue
            seen.add(value)
            fits = value.dtype in _MASK_TYPES and _fits(value, attention)
            if fits and not _indexes_a_table(value):
                yield value
            node = value.producer()
            pending += list(node.inputs) if node is not None else []


def _indexes_a_table(value: ir.Value) -> bool:
    """Whether the entries are ids: they are not zeros and ones, as a mask's are."""
    for user, position in value.uses():
        if is_op(user, "Gather") and position == 1:
            return True
        if is_op(user, *KEEPS_POSITIONS) and _indexes_a_table(user.outputs[0]):
            return True
    return False


def _fits(mask: ir.Value, attention: ir.Node) -> bool:
    """Whether a value has the batch and the key length of an attention."""
    key = attention.inputs[1]
    if key is None or key.shape is None or mask.shape is None or rank(mask) != 2:
        return False
    sequence_axis = 2 if len(key.shape) == 4 else 1
    sizes = (key.shape[0], key.shape[sequence_axis])
    return all(same_size(mask.shape[axis], sizes[axis]) for axis in (0, 1))
