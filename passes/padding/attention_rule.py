"""How an attention that padding removal reaches may run on packed tokens."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.passes.matching import float_attribute, integer_attribute

from .layouts import covers_pairs
from .mask_facts import MaskFacts, Visibility


def visibility(
    attention: ir.Node, attention_mask: ir.Value, facts: MaskFacts, mask: ir.Value
) -> Visibility | None:
    """What its queries see once packed; None if it must stay padded.

    Args:
        attention: a standard ``Attention``.
        attention_mask: its mask, which hides padded keys.
        facts: what is known of masks.
        mask: the padding mask, ``[B, S]``.
    """
    if float_attribute(attention, "softcap"):
        return None
    visible = facts.among_valid(attention_mask)
    if visible is Visibility.FULL and integer_attribute(attention, "is_causal", 0):
        return Visibility.CAUSAL
    return visible or under_its_mask(attention, mask)


def under_its_mask(attention: ir.Node, mask: ir.Value) -> Visibility | None:
    """``MASKED`` if the attention's mask says all there is to say, pair by pair."""
    attention_mask = attention.inputs[3]
    if attention_mask is None or integer_attribute(attention, "is_causal", 0):
        return None
    return Visibility.MASKED if covers_pairs(attention_mask, mask) else None
