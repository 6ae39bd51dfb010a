"""The functions of standard operators to which ``VarlenAttention`` is lowered, as text."""

from __future__ import annotations

import dataclasses

LOWERED_DOMAIN = "dechaff.lowered"
"""Domain of functions that exist between lowering and inlining only."""

_ATTRIBUTES = """q_num_heads: int = @q_num_heads, kv_num_heads: int = @kv_num_heads,
                scale: float = @scale, is_causal: int = @is_causal"""

_BOUNDS = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
{name} ({layout}) => (grid, {outputs})
{{
    axis_0 = Constant <value = int64[1] {{0}}> ()
    axis_1 = Constant <value = int64[1] {{1}}> ()
    minus_one = Constant <value = int64[1] {{-1}}> ()
    one_row = Constant <value = int64[2] {{1, -1}}> ()
    many = Constant <value = int64[1] {{9223372036854775807}}> ()
    none = Constant <value = int64 {{0}}> ()

    starts = Slice (cu_seqlens_q, axis_0, minus_one, axis_0)
    ends = Slice (cu_seqlens_q, axis_1, many, axis_0)
    lengths = Sub (ends, starts)
    found = NonZero (lengths)
    rows = Reshape (found, minus_one)
    count = Size (rows)
    starts_column = Unsqueeze (starts, axis_1)
    ends_column = Unsqueeze (ends, axis_1)
    row_starts = Gather <axis = 0> (starts_column, rows)
    row_ends = Gather <axis = 0> (ends_column, rows)

    token_count = ReduceSum <keepdims = 0> (lengths)
    longest = ReduceMax <keepdims = 1> (lengths)
    row_tokens = Mul (longest, count)
    full_rows = Equal (row_tokens, token_count)
    some_tokens = Greater (token_count, none)
    one_length_vector = And (full_rows, some_tokens)
    one_length = Squeeze (one_length_vector)
    {keys}
    all_rows = Concat <axis = 0> (minus_one, longest)
    grid = Where (at_once, all_rows, one_row)
    {padded}
}}
"""
"""How packed tokens become rows. ``grid`` is ``[count, length]``, or ``[1, T]`` for the loop."""

_BOUNDS_OF_KEYS = """
    k_starts = Slice (cu_seqlens_k, axis_0, minus_one, axis_0)
    k_ends = Slice (cu_seqlens_k, axis_1, many, axis_0)
    k_starts_column = Unsqueeze (k_starts, axis_1)
    k_ends_column = Unsqueeze (k_ends, axis_1)
    key_starts = Gather <axis = 0> (k_starts_column, rows)
    key_ends = Gather <axis = 0> (k_ends_column, rows)
    key_count = Size (key_index)
    all_are_keys = Equal (key_count, token_count)
    at_once = And (one_length, all_are_keys)
"""

_BOUNDS_OF_PADDED = """
    zero_vector = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64 {1}> ()
    rows_and_heads = Constant <value = int64[2] {1, 2}> ()
    rows_and_queries = Constant <value = int64[2] {1, 3}> ()
    longest_scalar = Squeeze (longest)
    offsets = Range (none, longest_scalar, one)
    row_lengths = Sub (row_ends, row_starts)
    valid = Less (offsets, row_lengths)
    flat_valid = Reshape (valid, minus_one)
    found_tokens = NonZero (flat_valid)
    places = Reshape (found_tokens, minus_one)
    own_tokens = Add (row_starts, offsets)
    last_token = Sub (token_count, one)
    some_token = Min (own_tokens, last_token)
    sources = Reshape (some_token, minus_one)
    padded_shape = Concat <axis = 0> (all_rows, zero_vector)
    valid_keys = Unsqueeze (valid, rows_and_heads)
    valid_queries = Unsqueeze (valid, rows_and_queries)
    either = Or (valid_keys, valid_queries)
    mask = And (either, valid_keys)
"""
"""``sources``: the token at each padded position, any token at padding. ``places``: the reverse.
The mask has its query axis in full: the runtime does not broadcast it."""

_PADDED = """
            context_by_row = If (some_tokens) <
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
            context_by_row = ConcatFromSequence <axis = 1> (contexts)
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
        else_branch = row_by_row () => (context_by_row) {{
            {otherwise}
        }}
    >
}}
"""

_LOOP = """
    {contexts} = Loop (count, true, nothing) <body = {name}
        (int64 row_{name}, bool going_{name}, before_{name})
            => (bool go_on_{name}, after_{name}) {{
            go_on_{name} = Identity (going_{name})
            q_start_{name} = Gather <axis = 0> (row_starts, row_{name})
            q_end_{name} = Gather <axis = 0> (row_ends, row_{name})
            {cut}
            context_{name} = Attention <{attributes}> (q_{name}, {k}_{name}, {v}_{name})
            after_{name} = SequenceInsert (before_{name}, context_{name})
        }}
    >
"""

_CUT_SEPARATE = """
            q_{name} = Slice (q, q_start_{name}, q_end_{name}, axis_1)
            k_{name} = Slice (k, q_start_{name}, q_end_{name}, axis_1)
            v_{name} = Slice (v, q_start_{name}, q_end_{name}, axis_1)
"""
_CUT_MERGED = """
            qkv_{name} = Slice (qkv, q_start_{name}, q_end_{name}, axis_1)
            q_{name}, k_{name}, v_{name} = Split <axis = 2> (qkv_{name}, widths)
"""
_SELECT_KEYS = """
            k_start_{name} = Gather <axis = 0> (key_starts, row_{name})
            k_end_{name} = Gather <axis = 0> (key_ends, row_{name})
            listed_{name} = Slice (key_index, k_start_{name}, k_end_{name}, axis_0)
            own_{name} = Sub (listed_{name}, q_start_{name})
            kept_k_{name} = Gather <axis = 1> (k_{name}, own_{name})
            kept_v_{name} = Gather <axis = 1> (v_{name}, own_{name})
"""
_NOTHING_SEPARATE = "no_context = Slice (q, axis_0, axis_0, axis_1)"
_NOTHING_MERGED = """
            no_tokens = Slice (qkv, axis_0, axis_0, axis_1)
            no_context, no_keys, no_values = Split <axis = 2> (no_tokens, widths)
"""
_BRANCHES = """
    contexts = If (all_are_keys) <
        then_branch = every_token_is_a_key () => (contexts_all) {{ {all_keys} }},
        else_branch = padding_was_kept () => (contexts_listed) {{ {listed_keys} }}
    >
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
        rows = ("at_once", "count", "row_starts", "row_ends")
        if self.padded:
            return ("at_once", "some_tokens", "sources", "places", "padded_shape", "mask")
        return rows if self.all_keys else (*rows, "key_starts", "key_ends", "all_are_keys")

    def bounds_text(self) -> str:
        """The first function; it depends on the layout alone, so all layers share its results."""
        return _BOUNDS.format(
            name=self.bounds_name,
            layout="cu_seqlens_q" if self.all_keys else "cu_seqlens_q, key_index, cu_seqlens_k",
            outputs=", ".join(self.bounds),
            keys="at_once = Identity (one_length)" if self.all_keys else _BOUNDS_OF_KEYS,
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
        run = self._loop("all", "contexts")
        if not self.all_keys:
            run = _BRANCHES.format(
                all_keys=self._loop("all", "contexts_all"),
                listed_keys=self._loop("listed", "contexts_listed", select=True),
            )
        return _BY_ROW.format(nothing=self._nothing, run=run)

    @property
    def _nothing(self) -> str:
        return _NOTHING_MERGED if self.merged else _NOTHING_SEPARATE

    def _loop(self, name: str, contexts: str, select: bool = False) -> str:
        cut = (_CUT_MERGED if self.merged else _CUT_SEPARATE) + (_SELECT_KEYS if select else "")
        return _LOOP.format(
            name=name,
            contexts=contexts,
            cut=cut.format(name=name),
            k="kept_k" if select else "k",
            v="kept_v" if select else "v",
            attributes=_ATTRIBUTES,
        )
