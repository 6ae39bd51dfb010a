"""The functions of standard operators to which ``VarlenAttention`` is lowered, as text."""

from __future__ import annotations

import dataclasses

LOWERED_DOMAIN = "dechaff.lowered"
"""Domain of functions that exist between lowering and inlining only."""

_ATTRIBUTES = """q_num_heads: int = @q_num_heads, kv_num_heads: int = @kv_num_heads,
                scale: float = @scale, is_causal: int = @is_causal"""

_BOUNDS = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
{name} <few_tokens> ({layout}) => (grid, {outputs})
{{
    axis_0 = Constant <value = int64[1] {{0}}> ()
    axis_1 = Constant <value = int64[1] {{1}}> ()
    minus_one = Constant <value = int64[1] {{-1}}> ()
    many = Constant <value = int64[1] {{9223372036854775807}}> ()
    none = Constant <value = int64 {{0}}> ()
    one = Constant <value = int64 {{1}}> ()
    limit = Constant <value_int: int = @few_tokens> ()

    bounds, first_of_bound = Unique <sorted = 1> (cu_seqlens_q)
    column = Unsqueeze (bounds, axis_1)
    row_starts = Slice (column, axis_0, minus_one, axis_0)
    row_ends = Slice (column, axis_1, many, axis_0)
    lengths = Sub (row_ends, row_starts)
    count = Shape <start = 0, end = 1> (lengths)
    token_count = ReduceMax <keepdims = 0> (cu_seqlens_q)
    some_tokens = Greater (token_count, none)
    distinct_lengths = Unique <sorted = 1> (lengths)
    length_count = Size (distinct_lengths)
    one_length = Equal (length_count, one)
    not_many_tokens = LessOrEqual (token_count, limit)
    {keys}
    rows_at_once = Where (at_once, count, axis_1)
    grid = Concat <axis = 0> (rows_at_once, minus_one)

    few_count = Where (few, token_count, none)
    few_places = Range (none, few_count, one)
    begun = GreaterOrEqual (few_places, row_starts)
    begun_numbers = Cast <to = 7> (begun)
    row_of_token = ReduceSum <keepdims = 1> (begun_numbers, axis_0)
    row_of_query = Transpose (row_of_token)
    same_row = Equal (row_of_query, row_of_token)
    {padded}
}}
"""
"""How packed tokens become rows. ``grid`` is ``[count, length]``, or ``[1, T]`` where lengths
differ. Bounds that are equal are those of empty rows, which drop out. ``same_row`` is the mask of
few tokens, ``[T, T]``, and empty where there are many."""

_ALL_KEYS = """
    at_once = Identity (one_length)
    few = And (not_many_tokens, some_tokens)
"""

_BOUNDS_OF_KEYS = """
    ends_of_rows = Slice (first_of_bound, axis_1, many, axis_0)
    places_of_rows = Sub (ends_of_rows, axis_1)
    key_column = Unsqueeze (cu_seqlens_k, axis_1)
    key_starts = Gather <axis = 0> (key_column, places_of_rows)
    key_ends = Gather <axis = 0> (key_column, ends_of_rows)
    key_count = Size (key_index)
    all_are_keys = Equal (key_count, token_count)
    at_once = And (one_length, all_are_keys)
    some_are_few = And (not_many_tokens, some_tokens)
    few = And (some_are_few, all_are_keys)
"""

_BOUNDS_OF_PADDED = """
    zero_vector = Constant <value = int64[1] {0}> ()
    no_length = Constant <value = int64[1,1] {0}> ()
    rows_and_heads = Constant <value = int64[2] {1, 2}> ()
    rows_and_queries = Constant <value = int64[2] {1, 3}> ()
    with_no_length = Concat <axis = 0> (lengths, no_length)
    longest = ReduceMax <keepdims = 0> (with_no_length)
    longest_vector = Reshape (longest, minus_one)
    offsets = Range (none, longest, one)
    valid = Less (offsets, lengths)
    flat_valid = Reshape (valid, minus_one)
    found_tokens = NonZero (flat_valid)
    places = Reshape (found_tokens, minus_one)
    own_tokens = Add (row_starts, offsets)
    last_token = Sub (token_count, one)
    some_token = Min (own_tokens, last_token)
    sources = Reshape (some_token, minus_one)
    padded_shape = Concat <axis = 0> (minus_one, longest_vector, zero_vector)
    valid_keys = Unsqueeze (valid, rows_and_heads)
    valid_queries = Unsqueeze (valid, rows_and_queries)
    either = Or (valid_keys, valid_queries)
    mask = And (either, valid_keys)
"""
"""``sources``: the token at each padded position, any token at padding. ``places``: the reverse.
The mask has its query axis in full: the runtime does not broadcast it."""

_PADDED = """
            context_of_many = If (some_tokens) <
                then_branch = padded_to_the_longest () => (context_of_rows) {{
                    joined = Constant <value = int64[3] {{1, -1, 0}}> ()
                    {cut}
                    q_rows = Reshape (q_padded, padded_shape)
                    k_rows = Reshape (k_padded, padded_shape)
                    v_rows = Reshape (v_padded, padded_shape)
                    c_rows = Attention <{attributes}> (q_rows, k_rows, v_rows{mask})
                    c_padded = Reshape (c_rows, joined)
                    context_of_rows = Gather <axis = 1> (c_padded, places)
                }},
                else_branch = no_tokens_at_all () => (no_context) {{ {nothing} }}
            >
"""

_PAD_SEPARATE = """
            q_padded = Gather <axis = 1> (q, sources)
            k_padded = Gather <axis = 1> (k, sources)
            v_padded = Gather <axis = 1> (v, sources)
"""
_PAD_MERGED = """
            qkv_padded = Gather <axis = 1> (qkv, sources)
            q_padded, k_padded, v_padded = Split <axis = 2> (qkv_padded, widths)
"""

_BY_ROW = """
            {nothing}
            nothing = SequenceConstruct (no_context)
            {run}
            context_of_many = ConcatFromSequence <axis = 1> (contexts)
"""

_ATTEND = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
{name} <q_num_heads, kv_num_heads, scale, is_causal> ({operands}) => (context)
{{
    axis_0 = Constant <value = int64[1] {{0}}> ()
    axis_1 = Constant <value = int64[1] {{1}}> ()
    true = Constant <value = bool {{1}}> ()
    context = If (at_once) <
        then_branch = rows_of_one_length () => (context_at_once) {{
            {split}
            context_at_once = Attention <{attributes}> ({rows})
        }},
        else_branch = rows_of_several_lengths () => (context_by_row) {{
            context_by_row = If (few) <
                then_branch = few_tokens () => (context_of_few) {{
                    {split_few}
                    context_of_few = Attention <{attributes}> ({few}, same_row)
                }},
                else_branch = many_tokens () => (context_of_many) {{ {otherwise} }}
            >
        }}
    >
}}
"""

_LOOP = """
            contexts = Loop (count, true, nothing) <body = one_row
                (int64 row, bool going, before) => (bool go_on, after) {{
                    go_on = Identity (going)
                    q_start = Gather <axis = 0> (row_starts, row)
                    q_end = Gather <axis = 0> (row_ends, row)
                    {keys}
                    {cut}
                    context_of_row = Attention <{attributes}> (q_row, k_row, v_row)
                    after = SequenceInsert (before, context_of_row)
                }}
            >
"""
_LIST_KEYS = """
                    k_start = Gather <axis = 0> (key_starts, row)
                    k_end = Gather <axis = 0> (key_ends, row)
                    listed = Slice (key_index, k_start, k_end, axis_0)
"""
_CUT_SEPARATE = """
                    q_row = Slice (q, q_start, q_end, axis_1)
                    k_row = Slice (k, q_start, q_end, axis_1)
                    v_row = Slice (v, q_start, q_end, axis_1)
"""
_CUT_SEPARATE_LISTED = """
                    q_row = Slice (q, q_start, q_end, axis_1)
                    k_row = Gather <axis = 1> (k, listed)
                    v_row = Gather <axis = 1> (v, listed)
"""
_CUT_MERGED = """
                    qkv_row = Slice (qkv, q_start, q_end, axis_1)
                    q_row, k_row, v_row = Split <axis = 2> (qkv_row, widths)
"""
_CUT_MERGED_LISTED = """
                    qkv_row = Slice (qkv, q_start, q_end, axis_1)
                    q_row, k_of_tokens, v_of_tokens = Split <axis = 2> (qkv_row, widths)
                    own = Sub (listed, q_start)
                    k_row = Gather <axis = 1> (k_of_tokens, own)
                    v_row = Gather <axis = 1> (v_of_tokens, own)
"""
_NOTHING_SEPARATE = "no_context = Slice (q, axis_0, axis_0, axis_1)"
_NOTHING_MERGED = """
            no_tokens = Slice (qkv, axis_0, axis_0, axis_1)
            no_context, no_keys, no_values = Split <axis = 2> (no_tokens, widths)
"""


@dataclasses.dataclass(frozen=True)
class AttentionVariant:
    """What is known of the operands, and how rows of several lengths are attended to.

    Attributes:
        merged: query, key and value are the parts of one ``Split``, in order.
        all_keys: every token is a key.
        padded: rows are padded to the longest and attended to at once, not one by one. Only where
            every token is a key.
        causal: a query sees only keys before its own position, so that padding needs no mask.
    """

    merged: bool
    all_keys: bool
    padded: bool
    causal: bool

    @property
    def bounds_name(self) -> str:
        """Name of the function that finds the bounds of rows."""
        return f"RowBounds{self._keys}{'Padded' if self.padded else ''}"

    @property
    def attend_name(self) -> str:
        """Name of the function that attends within rows."""
        operands = "Merged" if self.merged else "Separate"
        causal = "Causal" if self.causal else ""
        return f"Attend{operands}{self._keys}{f'Padded{causal}' if self.padded else ''}"

    @property
    def bounds(self) -> tuple[str, ...]:
        """The results of the first function beside ``grid``; they are operands of the second."""
        common = ("at_once", "few", "same_row")
        if self.padded:
            return (*common, "some_tokens", "sources", "places", "padded_shape", "mask")
        rows = (*common, "count", "row_starts", "row_ends")
        return rows if self.all_keys else (*rows, "key_starts", "key_ends")

    def bounds_text(self) -> str:
        """The first function; it depends on the layout alone, so all layers share its results."""
        return _BOUNDS.format(
            name=self.bounds_name,
            layout="cu_seqlens_q" if self.all_keys else "cu_seqlens_q, key_index, cu_seqlens_k",
            outputs=", ".join(self.bounds),
            keys=_ALL_KEYS if self.all_keys else _BOUNDS_OF_KEYS,
            padded=_BOUNDS_OF_PADDED if self.padded else "",
        )

    def attend_text(self) -> str:
        """The second function."""
        operands = ["qkv", "widths"] if self.merged else ["q", "k", "v"]
        operands += [] if self.all_keys else ["key_index"]
        return _ATTEND.format(
            name=self.attend_name,
            operands=", ".join([*self.bounds, *operands]),
            split="q_all, k_all, v_all = Split <axis = 2> (qkv, widths)" if self.merged else "",
            rows="q_all, k_all, v_all" if self.merged else "q, k, v",
            split_few="q_few, k_few, v_few = Split <axis = 2> (qkv, widths)" if self.merged else "",
            few="q_few, k_few, v_few" if self.merged else "q, k, v",
            otherwise=self._padded() if self.padded else self._row_by_row(),
            attributes=_ATTRIBUTES,
        )

    @property
    def _keys(self) -> str:
        return "All" if self.all_keys else "Listed"

    def _padded(self) -> str:
        return _PADDED.format(
            cut=_PAD_MERGED if self.merged else _PAD_SEPARATE,
            mask="" if self.causal else ", mask",
            nothing=self._nothing,
            attributes=_ATTRIBUTES,
        )

    def _row_by_row(self) -> str:
        cuts = {
            (False, True): _CUT_SEPARATE,
            (False, False): _CUT_SEPARATE_LISTED,
            (True, True): _CUT_MERGED,
            (True, False): _CUT_MERGED_LISTED,
        }
        run = _LOOP.format(
            keys="" if self.all_keys else _LIST_KEYS,
            cut=cuts[self.merged, self.all_keys],
            attributes=_ATTRIBUTES,
        )
        return _BY_ROW.format(nothing=self._nothing, run=run)

    @property
    def _nothing(self) -> str:
        return _NOTHING_MERGED if self.merged else _NOTHING_SEPARATE
