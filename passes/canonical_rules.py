"""The rules of ``canonicalize`` by the operator they start from."""

from __future__ import annotations

from .canonical_elementwise import (
    divide_by_power_of_two,
    remove_cast,
    remove_dropout,
    remove_neutral_operand,
)
from .canonical_gathers import gather_nd_of_constants, gather_nd_of_ranges, gather_of_flat_ranges
from .canonical_heads import split_heads_at_once, unfold_heads
from .canonical_lookups import add_one_row
from .canonical_picks import pick_before_reshape, pick_before_transpose
from .canonical_position_scores import unfold_gathered_scores, unfold_sum_of_scores
from .canonical_shapes import (
    flatten_to_reshape,
    merge_unsqueezes,
    remove_expand,
    remove_reshape,
    remove_slice,
    remove_unsqueeze_pair,
    shape_of_input,
    transpose_through_reshapes,
)
from .replacement import Rule

RULES: dict[str, tuple[Rule, ...]] = {
    "Add": (remove_neutral_operand, add_one_row),
    "Cast": (remove_cast,),
    "Div": (remove_neutral_operand, divide_by_power_of_two),
    "Dropout": (remove_dropout,),
    "Expand": (remove_expand,),
    "Flatten": (flatten_to_reshape,),
    "Gather": (gather_of_flat_ranges, pick_before_reshape, pick_before_transpose),
    "GatherElements": (unfold_gathered_scores,),
    "GatherND": (gather_nd_of_ranges, gather_nd_of_constants),
    "Mul": (remove_neutral_operand,),
    "Reshape": (
        transpose_through_reshapes,
        remove_reshape,
        split_heads_at_once,
        unfold_heads,
        unfold_sum_of_scores,
    ),
    "Shape": (shape_of_input,),
    "Slice": (remove_slice,),
    "Squeeze": (remove_unsqueeze_pair, pick_before_reshape, pick_before_transpose),
    "Sub": (remove_neutral_operand,),
    "Unsqueeze": (remove_unsqueeze_pair, merge_unsqueezes),
}
"""Rules by the operator they start from; the first that applies wins."""
