"""The mask that tells tokens from padding, found from the masks of the attentions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from dechaff.passes.matching import rank

from .layouts import same_size
from .mask_facts import MaskFacts

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


def padding_mask(masked: Sequence[ir.Node]) -> ir.Value | None:
    """The ``[B, S]`` value whose zeros the attention masks are shown to hide."""
    best, most = None, 0
    for candidate in _candidates(masked):
        facts = MaskFacts(candidate)
        hidden = sum(1 for n in masked if n.inputs[3] and facts.hides_padded_keys(n.inputs[3]))
        if hidden and hidden >= most:  # of equals the last one, which is nearest to the inputs
            best, most = candidate, hidden
    return best


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
            if value.dtype in _MASK_TYPES and _fits(value, attention):
                yield value
            node = value.producer()
            pending += list(node.inputs) if node is not None else []


def _fits(mask: ir.Value, attention: ir.Node) -> bool:
    """Whether a value has the batch and the key length of an attention."""
    key = attention.inputs[1]
    if key is None or key.shape is None or mask.shape is None or rank(mask) != 2:
        return False
    sequence_axis = 2 if len(key.shape) == 4 else 1
    sizes = (key.shape[0], key.shape[sequence_axis])
    return all(same_size(mask.shape[axis], sizes[axis]) for axis in (0, 1))
