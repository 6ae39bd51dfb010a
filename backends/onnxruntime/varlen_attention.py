"""Lowering of ``VarlenAttention``: without a mask, one sequence at a time unless all are as long.

The work is that of the valid tokens alone, and the small score matrices stay in cache: on two cores
attention of a BERT-base layer at B=16, S=128 takes a third of the time of padded ``Attention``.
Contexts gather in a sequence, which the runtime extends without copying what it holds; a
loop-carried tensor would be copied at every step. Only standard operators are used.

What bounds the loop is the number of nodes in its body, some microseconds each, and what it copies.
So the bounds of rows are computed outside, once for all layers; tokens keep a batch axis of 1 from
end to end; merged query, key and value are cut row by row in cache and never split in memory; and
the selection of keys, needed only where padding was kept, stands in a branch of its own. Sequences
of one length, a single one among them, need neither loop nor copies: packed tokens are then the
padded layout already.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx.parser
import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes import GraphBuilder, Rewriter

LOWERED_DOMAIN = "dechaff.lowered"
"""Domain of functions that exist between lowering and inlining only."""

_ATTRIBUTES = """q_num_heads: int = @q_num_heads, kv_num_heads: int = @kv_num_heads,
                scale: float = @scale, is_causal: int = @is_causal"""

_FUNCTION = """
<domain: "dechaff.lowered", opset_import: ["" : 23]>
{name} <q_num_heads, kv_num_heads, scale, is_causal> ({operands}) => (context)
{{
    axis_0 = Constant <value = int64[1] {{0}}> ()
    axis_1 = Constant <value = int64[1] {{1}}> ()
    minus_one = Constant <value = int64[1] {{-1}}> ()
    many = Constant <value = int64[1] {{9223372036854775807}}> ()
    none = Constant <value = int64 {{0}}> ()
    true = Constant <value = bool {{1}}> ()

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
    {prepare}
    context_shape = Concat <axis = 0> (minus_one, width)
    context = If ({at_once}) <
        then_branch = rows_of_one_length () => (context_at_once) {{
            {cut_at_once}
            context_rows = Attention <{attributes}> (q_rows, k_rows, v_rows)
            context_at_once = Reshape (context_rows, context_shape)
        }},
        else_branch = row_by_row () => (context_by_row) {{
            {nothing}
            nothing = SequenceConstruct (no_context)
            {run}
            joined = ConcatFromSequence <axis = 1> (contexts)
            context_by_row = Reshape (joined, context_shape)
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
_AT_ONCE_SEPARATE = """
            q_rows = Reshape (q, q_grid)
            k_rows = Reshape (k, kv_grid)
            v_rows = Reshape (v, kv_grid)
"""
_AT_ONCE_MERGED = """
            qkv_rows = Reshape (qkv, qkv_grid)
            q_rows, k_rows, v_rows = Split <axis = 2> (qkv_rows, widths)
"""

_NOTHING_SEPARATE = "no_context = Slice (q, axis_0, axis_0, axis_1)"
_NOTHING_MERGED = """
            no_tokens = Slice (qkv, axis_0, axis_0, axis_1)
            no_context, no_keys, no_values = Split <axis = 2> (no_tokens, widths)
"""

_PREPARE_SEPARATE = """
    width = Shape <start = 2> (q)
    kv_width = Shape <start = 2> (k)
    q_grid = Concat <axis = 0> (minus_one, longest, width)
    kv_grid = Concat <axis = 0> (minus_one, longest, kv_width)
"""
_PREPARE_MERGED = """
    width = Slice (widths, axis_0, axis_1, axis_0)
    qkv_width = Shape <start = 2> (qkv)
    qkv_grid = Concat <axis = 0> (minus_one, longest, qkv_width)
"""
_PREPARE_KEYS = """
    k_starts = Slice (cu_seqlens_k, axis_0, minus_one, axis_0)
    k_ends = Slice (cu_seqlens_k, axis_1, many, axis_0)
    k_starts_column = Unsqueeze (k_starts, axis_1)
    k_ends_column = Unsqueeze (k_ends, axis_1)
    key_starts = Gather <axis = 0> (k_starts_column, rows)
    key_ends = Gather <axis = 0> (k_ends_column, rows)
    key_count = Size (key_index)
    all_are_keys = Equal (key_count, token_count)
    one_length_of_keys = And (one_length, all_are_keys)
"""

_BRANCHES = """
    contexts = If (all_are_keys) <
        then_branch = every_token_is_a_key () => (contexts_all) {{ {all_keys} }},
        else_branch = padding_was_kept () => (contexts_listed) {{ {listed_keys} }}
    >
"""


@dataclasses.dataclass(frozen=True)
class _Variant:
    """What is known of the operands.

    Attributes:
        merged: query, key and value are the parts of one ``Split``, in order.
        all_keys: every token is a key.
    """

    merged: bool
    all_keys: bool

    @property
    def name(self) -> str:
        operands = "Merged" if self.merged else "Separate"
        return f"Attend{operands}{'All' if self.all_keys else 'Listed'}"

    def text(self) -> str:
        operands = "qkv, widths, cu_seqlens_q" if self.merged else "q, k, v, cu_seqlens_q"
        prepare = _PREPARE_MERGED if self.merged else _PREPARE_SEPARATE
        run = self._loop("all", "contexts")
        if not self.all_keys:
            operands, prepare = f"{operands}, key_index, cu_seqlens_k", prepare + _PREPARE_KEYS
            run = _BRANCHES.format(
                all_keys=self._loop("all", "contexts_all"),
                listed_keys=self._loop("listed", "contexts_listed", select=True),
            )
        return _FUNCTION.format(
            name=self.name,
            operands=operands,
            prepare=prepare,
            run=run,
            nothing=_NOTHING_MERGED if self.merged else _NOTHING_SEPARATE,
            at_once="one_length" if self.all_keys else "one_length_of_keys",
            cut_at_once=_AT_ONCE_MERGED if self.merged else _AT_ONCE_SEPARATE,
            attributes=_ATTRIBUTES,
        )

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


def lower_varlen_attention(node: ir.Node, rewriter: Rewriter) -> bool:
    """To a call of the function that fits the operands; the caller inlines it."""
    if node.inputs[0] is None or not _contexts_are_as_wide_as_queries(node):
        return False
    split = _common_split(node)
    variant = _Variant(merged=split is not None, all_keys=_all_tokens_are_keys(node))
    model = rewriter.module.model
    function = ir.serde.deserialize_function(onnx.parser.parse_function(variant.text()))
    model.functions.setdefault(function.identifier(), function)
    model.graph.opset_imports[LOWERED_DOMAIN] = 1
    with rewriter.rewrite("lower-varlen-attention", [node]) as builder:
        if split is not None:
            tokens = [_with_batch_axis(split.inputs[0], builder), split.inputs[1]]
        else:
            tokens = [_with_batch_axis(value, builder) for value in node.inputs[:3]]
        layout = node.inputs[3:4] if variant.all_keys else node.inputs[3:]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        context = builder.op(variant.name, [*tokens, *layout], attributes, domain=LOWERED_DOMAIN)
        builder.replace(node.outputs[0], context)
    return True


def _with_batch_axis(tokens: ir.Value | None, builder: GraphBuilder) -> ir.Value:
    """``[T, D]`` as ``[1, T, D]``, a bias added behind that and not before.

    Between the product and its bias, the axis keeps the runtime from making a ``Gemm`` of the two,
    which takes longer than both.
    """
    front = builder.constant(np.array([0], np.int64), "axis_0")
    addition = tokens.producer() if tokens is not None else None
    product = _biased_product(addition)
    if addition is None or product is None:
        return builder.op("Unsqueeze", [tokens, front])
    raised = builder.op("Unsqueeze", [product, front])
    return builder.op("Add", [raised if v is product else v for v in addition.inputs])


def _biased_product(addition: ir.Node | None) -> ir.Value | None:
    """The ``MatMul`` result to which an ``Add`` adds a constant vector."""
    if addition is None or addition.op_type != "Add" or addition.domain != "":
        return None
    for product, bias in (addition.inputs, addition.inputs[::-1]):
        maker = product.producer() if product is not None else None
        vector = constant_value(bias)
        if maker is not None and maker.op_type == "MatMul" and vector is not None:
            return product if len(vector.shape) == 1 else None
    return None


def _contexts_are_as_wide_as_queries(node: ir.Node) -> bool:
    """Whether values have the head size of queries, so that an empty context is an empty query."""
    query, context = node.inputs[0], node.outputs[0]
    if query is None or query.shape is None or context.shape is None:
        return False
    return query.shape[1] == context.shape[1]


def _common_split(node: ir.Node) -> ir.Node | None:
    """The ``Split`` whose three parts are query, key and value, with sizes known at load."""
    parts = list(node.inputs[:3])
    split = parts[0].producer() if parts[0] is not None else None
    if split is None or split.op_type != "Split" or split.domain != "":
        return None
    if list(split.outputs) != parts or constant_value(split.inputs[1]) is None:
        return None
    axis = split.attributes["axis"].as_int() if "axis" in split.attributes else 0
    return split if axis in (1, -1) else None


def _all_tokens_are_keys(node: ir.Node) -> bool:
    """Whether keys begin where queries do and their index counts ``0, 1, .., T - 1``."""
    key_index = node.inputs[4]
    counting = key_index.producer() if key_index is not None else None
    if node.inputs[5] is not node.inputs[3] or counting is None or counting.op_type != "Range":
        return False
    start, step = constant_value(counting.inputs[0]), constant_value(counting.inputs[2])
    if start is None or step is None:
        return False
    return int(start.numpy()) == 0 and int(step.numpy()) == 1
