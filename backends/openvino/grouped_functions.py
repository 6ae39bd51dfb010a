"""The functions of standard operators to which packed attention is lowered, as text."""

from __future__ import annotations

import dataclasses

GROUPS = 8
"""More groups compute fewer scores of padding, and more operators start."""

_ATTRIBUTES = """q_num_heads: int = @q_num_heads, kv_num_heads: int = @kv_num_heads,
                scale: float = @scale, is_causal: int = @is_causal"""

_LAYOUT = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
{name} ({operands}) => (at_once, all_rows, places, {layouts})
{{
    axis_0 = Constant <value = int64[1] {{0}}> ()
    axis_1 = Constant <value = int64[1] {{1}}> ()
    key_axes = Constant <value = int64[2] {{1, 2}}> ()
    query_axes = Constant <value = int64[2] {{1, 3}}> ()
    minus_one = Constant <value = int64[1] {{-1}}> ()
    many = Constant <value = int64[1] {{9223372036854775807}}> ()
    zero = Constant <value = int64 {{0}}> ()
    one = Constant <value = int64 {{1}}> ()
    groups = Constant <value = int64[1] {{{groups}}}> ()
    all_but_one = Constant <value = int64[1] {{{all_but_one}}}> ()
    nothing = Constant <value = float {{0}}> ()
    far_below = Constant <value = float {{-1e30}}> ()

    starts = Slice (cu_seqlens, axis_0, minus_one, axis_0)
    ends = Slice (cu_seqlens, axis_1, many, axis_0)
    unsorted = Sub (ends, starts)
    batch = Shape (unsorted)
    sorted, order = TopK <axis = 0> (unsorted, batch)
    sorted_starts = Gather <axis = 0> (starts, order)
    empty_rows = Constant <value = int64[{all_but_one}] {{{zeros}}}> ()
    lengths = Concat <axis = 0> (sorted, empty_rows)
    row_starts = Concat <axis = 0> (sorted_starts, empty_rows)
    raised_batch = Add (batch, all_but_one)
    rows_of_group = Div (raised_batch, groups)
    token_count = ReduceSum <keepdims = 0> (lengths)
    last_token = Sub (token_count, one)

    first_row = Slice (lengths, axis_0, axis_1, axis_0)
    longest = ReduceSum <keepdims = 1> (first_row)
    row_tokens = Mul (longest, batch)
    full_rows = Equal (row_tokens, token_count)
    one_length = Squeeze (full_rows, axis_0)
    {keys}
    all_rows = Concat <axis = 0> (batch, longest)
    place_0 = Identity (axis_0)
    {body}
    tokens = Concat <axis = 0> ({tokens})
    places_of_tokens = Concat <axis = 0> ({places})
    unset = Sub (tokens, tokens)
    places = ScatterElements <axis = 0> (unset, tokens, places_of_tokens)
}}
"""
"""``places``: where the context of each token lies among those of all groups, end to end."""

_EVERY_TOKEN_IS_A_KEY = "at_once = Identity (one_length)"
_LISTED_KEYS = """
    key_count = Size (key_index)
    all_are_keys = Equal (key_count, token_count)
    at_once = And (one_length, all_are_keys)
    token_count_vector = Reshape (token_count, minus_one)
    key_count_vector = Reshape (key_count, minus_one)
    false = Constant <value = bool[1] {0}> ()
    true = Constant <value = bool[1] {1}> ()
    no_keys = Expand (false, token_count_vector)
    marks = Expand (true, key_count_vector)
    marked = ScatterElements <axis = 0> (no_keys, key_index, marks)
    is_key = Concat <axis = 0> (marked, false)
"""
"""``is_key`` has an entry more, which is that of token -1 where there is none at all."""

_GROUP_LAYOUT = """
    number_{g} = Constant <value = int64[1] {{{g}}}> ()
    first_{g} = Mul (number_{g}, rows_of_group)
    past_first_{g} = Add (first_{g}, axis_1)
    past_last_{g} = Add (first_{g}, rows_of_group)
    own_lengths_{g} = Slice (lengths, first_{g}, past_last_{g}, axis_0)
    own_starts_{g} = Slice (row_starts, first_{g}, past_last_{g}, axis_0)
    longest_vector_{g} = Slice (lengths, first_{g}, past_first_{g}, axis_0)
    longest_or_zero_{g} = Squeeze (longest_vector_{g}, axis_0)
    longest_{g} = Max (longest_or_zero_{g}, one)
    offsets_{g} = Range (zero, longest_{g}, one)
    lengths_column_{g} = Unsqueeze (own_lengths_{g}, axis_1)
    starts_column_{g} = Unsqueeze (own_starts_{g}, axis_1)
    valid_{g} = Less (offsets_{g}, lengths_column_{g})
    own_tokens_{g} = Add (starts_column_{g}, offsets_{g})
    some_token_{g} = Min (own_tokens_{g}, last_token)
    sources_{g} = Reshape (some_token_{g}, minus_one)
    grid_{g} = Shape (valid_{g})
    {own_keys}
    {mask}
    flat_valid_{g} = Reshape (valid_{g}, minus_one)
    found_{g} = NonZero (flat_valid_{g})
    own_places_{g} = Reshape (found_{g}, minus_one)
    tokens_{g} = Gather <axis = 0> (sources_{g}, own_places_{g})
    places_{g} = Add (own_places_{g}, place_{g})
    padded_size_{g} = Shape (flat_valid_{g})
    place_{next} = Add (place_{g}, padded_size_{g})
"""
"""``sources``: the token at each padded position, any token at padding."""

_VALID_KEYS = "own_keys_{g} = Identity (valid_{g})"
_MARKED_KEYS = """
    marked_{g} = Gather <axis = 0> (is_key, some_token_{g})
    own_keys_{g} = And (marked_{g}, valid_{g})
"""

_BOOLEAN_MASK = """
    valid_keys_{g} = Unsqueeze (own_keys_{g}, key_axes)
    valid_queries_{g} = Unsqueeze (valid_{g}, query_axes)
    either_{g} = Or (valid_keys_{g}, valid_queries_{g})
    mask_{g} = And (either_{g}, valid_keys_{g})
"""
"""With its query axis in full: ONNX Runtime does not broadcast it."""

_ADDED_MASK = """
    allowed_{g} = Unsqueeze (own_keys_{g}, key_axes)
    mask_{g} = Where (allowed_{g}, nothing, far_below)
"""

_ATTEND = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
{name} <q_num_heads, kv_num_heads, scale, is_causal>
    (at_once, all_rows, places, {layouts}, q, k, v, q_width, k_width, v_width, c_flat)
    => (context)
{{
    context = If (at_once) <
        then_branch = rows_of_one_length () => (context_at_once) {{
            q_shape = Concat <axis = 0> (all_rows, q_width)
            k_shape = Concat <axis = 0> (all_rows, k_width)
            v_shape = Concat <axis = 0> (all_rows, v_width)
            q_rows = Reshape <allowzero = 1> (q, q_shape)
            k_rows = Reshape <allowzero = 1> (k, k_shape)
            v_rows = Reshape <allowzero = 1> (v, v_shape)
            c_rows = Attention <{attributes}> (q_rows, k_rows, v_rows)
            context_at_once = Reshape (c_rows, c_flat)
        }},
        else_branch = in_groups () => (context_in_groups) {{
            {body}
            contexts = Concat <axis = 0> ({contexts})
            context_in_groups = Gather <axis = 0> (contexts, places)
        }}
    >
}}
"""

_ATTEND_GROUP = """
            q_shape_{g} = Concat <axis = 0> (grid_{g}, q_width)
            k_shape_{g} = Concat <axis = 0> (grid_{g}, k_width)
            v_shape_{g} = Concat <axis = 0> (grid_{g}, v_width)
            q_padded_{g} = Gather <axis = 0> (q, sources_{g})
            k_padded_{g} = Gather <axis = 0> (k, sources_{g})
            v_padded_{g} = Gather <axis = 0> (v, sources_{g})
            q_{g} = Reshape <allowzero = 1> (q_padded_{g}, q_shape_{g})
            k_{g} = Reshape <allowzero = 1> (k_padded_{g}, k_shape_{g})
            v_{g} = Reshape <allowzero = 1> (v_padded_{g}, v_shape_{g})
            c_{g} = Attention <{attributes}> (q_{g}, k_{g}, v_{g}{mask})
            context_{g} = Reshape (c_{g}, c_flat)
"""

_ATTEND_INTEGERS = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
{name} <q_num_heads, kv_num_heads, scale, is_causal>
    (places, {layouts}, q, k, v, c_flat, q_scale, k_scale) => (context)
{{
    minus_one = Constant <value = int64[1] {{-1}}> ()
    heads_number = Constant <value_int: int = @q_num_heads> ()
    scale_factor = Constant <value_float: float = @scale> ()
    lowest = Constant <value = float {{-1e38}}> ()
    highest = Constant <value = float {{1e38}}> ()
    heads = Reshape (heads_number, minus_one)
    heads_and_size = Concat <axis = 0> (heads, minus_one)
    v_whole = Clip (v, lowest, highest)
    {body}
    contexts = Concat <axis = 0> ({contexts})
    context = Gather <axis = 0> (contexts, places)
}}
"""
"""Outside of a branch, and spelled out, OpenVINO makes one kernel of a group's attention, with
integer products of queries and keys; before a branch it copies what that reads. ``Clip`` keeps it
from scaling values group by group, behind the gather, in place of once as they are computed."""

_INTEGER_GROUP = """
            q_padded_{g} = Gather <axis = 0> (q, sources_{g})
            k_padded_{g} = Gather <axis = 0> (k, sources_{g})
            v_padded_{g} = Gather <axis = 0> (v_whole, sources_{g})
            q_real_{g} = DequantizeLinear (q_padded_{g}, q_scale)
            k_real_{g} = DequantizeLinear (k_padded_{g}, k_scale)
            split_{g} = Concat <axis = 0> (grid_{g}, heads_and_size)
            q_split_{g} = Reshape (q_real_{g}, split_{g})
            k_split_{g} = Reshape (k_real_{g}, split_{g})
            v_split_{g} = Reshape (v_padded_{g}, split_{g})
            q_{g} = Transpose <perm = [0, 2, 1, 3]> (q_split_{g})
            k_{g} = Transpose <perm = [0, 2, 3, 1]> (k_split_{g})
            v_{g} = Transpose <perm = [0, 2, 1, 3]> (v_split_{g})
            products_{g} = MatMul (q_{g}, k_{g})
            scaled_{g} = Mul (products_{g}, scale_factor)
            scores_{g} = Add (scaled_{g}, mask_{g})
            shares_{g} = Softmax <axis = -1> (scores_{g})
            c_heads_{g} = MatMul (shares_{g}, v_{g})
            c_{g} = Transpose <perm = [0, 2, 1, 3]> (c_heads_{g})
            context_{g} = Reshape (c_{g}, c_flat)
"""


@dataclasses.dataclass(frozen=True)
class GroupVariant:
    """What is known of the operands, and how a group is attended to.

    Attributes:
        all_keys: every token is a key.
        causal: a query sees only keys before its own position, so that padding needs no mask.
        integers: queries and keys come as int8 with their scales.
    """

    all_keys: bool
    causal: bool
    integers: bool

    @property
    def layout_name(self) -> str:
        """Name of the function that cuts rows into groups."""
        keys = "" if self.all_keys else "OfKeys"
        return f"GroupLayout{keys}{'Added' if self.integers else ''}"

    @property
    def attend_name(self) -> str:
        """Name of the function that attends."""
        parts = {"Causal": self.causal, "Integers": self.integers}
        return "AttendInGroups" + "".join(part for part, holds in parts.items() if holds)

    def layout_text(self) -> str:
        """The function that cuts rows into groups."""
        group = _GROUP_LAYOUT.replace("{own_keys}", _VALID_KEYS if self.all_keys else _MARKED_KEYS)
        group = group.replace("{mask}", _ADDED_MASK if self.integers else _BOOLEAN_MASK)
        return _LAYOUT.format(
            name=self.layout_name,
            operands="cu_seqlens" if self.all_keys else "cu_seqlens, key_index",
            keys=_EVERY_TOKEN_IS_A_KEY if self.all_keys else _LISTED_KEYS,
            groups=GROUPS,
            all_but_one=GROUPS - 1,
            zeros=", ".join("0" * (GROUPS - 1)),
            layouts=_of_groups("sources_{g}, grid_{g}, mask_{g}"),
            body="".join(group.format(g=g, next=g + 1) for g in range(GROUPS)),
            tokens=_of_groups("tokens_{g}"),
            places=_of_groups("places_{g}"),
        )

    def attend_text(self) -> str:
        """The function that attends within rows."""
        return (_ATTEND_INTEGERS if self.integers else _ATTEND).format(
            name=self.attend_name,
            layouts=_of_groups("sources_{g}, grid_{g}, mask_{g}"),
            attributes=_ATTRIBUTES,
            body="".join(self._group(g) for g in range(GROUPS)),
            contexts=_of_groups("context_{g}"),
        )

    def _group(self, g: int) -> str:
        if self.integers:
            return _INTEGER_GROUP.format(g=g)
        mask = "" if self.causal else f", mask_{g}"
        return _ATTEND_GROUP.format(g=g, attributes=_ATTRIBUTES, mask=mask)


def _of_groups(template: str) -> str:
    return ", ".join(template.format(g=g) for g in range(GROUPS))
