"""Lowering of ``VarlenAttention``: without a mask, one sequence at a time unless all are as long.

The work is that of the valid tokens alone, and the small score matrices stay in cache: on two cores
attention of a BERT-base layer at B=16, S=128 takes a third of the time of padded ``Attention``.
Contexts gather in a sequence, which the runtime extends without copying what it holds; a
loop-carried tensor would be copied at every step. Only standard operators are used.

What bounds the loop is the number of nodes in its body, some microseconds each, and what it copies.
So the bounds of rows are computed outside, once for all layers; tokens keep a batch axis of 1 from
end to end; and merged query, key and value are cut row by row in cache and never split in memory.
Where padding was kept, a row gathers the keys that are listed for it. Each branch and each body of
a loop costs memory as a graph of its own, so there are few. Sequences of one length, a single one
among them, need neither loop nor copies: packed tokens are then the padded layout already. They
take that shape before the branch, since a Reshape in it would copy.

A node that runs costs some microseconds whatever it does. Where all rows together hold few tokens,
a loop would take longer than products of all queries with all keys, so these are formed at once and
those of different rows hidden: one node for an attention.

One sequence may be too little work for many cores. The kernel ``padded`` therefore pads the rows to
the longest again, for the attention alone, and attends to all at once under a mask; which of the
two is faster on a machine is measured, see ``attention_timing``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import onnx.parser
import onnx_ir as ir

from dechaff.ir import constant_value, static_dim
from dechaff.passes import GraphBuilder, Rewriter
from dechaff.passes.matching import made_by

from .varlen_functions import LOWERED_DOMAIN, AttentionVariant

AttentionKernel = Literal["rows", "padded"]
"""How sequences of several lengths are attended to: one by one, or padded to the longest."""

ATTENTION_KERNELS: tuple[AttentionKernel, ...] = get_args(AttentionKernel)

_FRONT = {"axis": 0}

_FEW_PRODUCTS = 4_000_000
"""Products of a query and a key, summed over heads, that take less time than a loop over rows."""
_TYPICAL_WIDTH = 768


def lower_varlen_attention(
    node: ir.Node, rewriter: Rewriter, kernel: AttentionKernel = "rows"
) -> bool:
    """To calls of the functions that fit the operands; the caller inlines them."""
    if node.inputs[0] is None or not contexts_are_as_wide_as_queries(node):
        return False
    read_unrounded(node)
    split = _common_split(node)
    all_keys = all_tokens_are_keys(node)
    variant = AttentionVariant(
        merged=split is not None,
        all_keys=all_keys,
        padded=kernel == "padded" and all_keys,
        causal=node.attributes["is_causal"].as_int() == 1,
    )
    define(variant.bounds_name, variant.bounds_text(), rewriter)
    define(variant.attend_name, variant.attend_text(), rewriter)
    with rewriter.rewrite("lower-varlen-attention", [node]) as builder:
        grid, *bounds = _row_bounds(node, variant, builder)
        widths = [] if split is None else [split.inputs[1]]
        keys = [] if all_keys else [node.inputs[4]]
        context = attend_in_rows(
            node,
            variant.attend_name,
            bounds,
            _tokens(node, split),
            [*widths, *keys],
            grid,
            builder,
        )
        builder.replace(node.outputs[0], context)
    return True


def read_unrounded(node: ir.Node) -> None:
    """Let an attention read queries and keys as they were before a pass rounded them.

    Only the integer products of OpenVINO gain by rounding. ONNX Runtime 1.32 ends the process when
    a ``DequantizeLinear`` is read within a branch, and the kernels here attend within branches.
    """
    for position, value in enumerate(node.inputs[:3]):
        restored = made_by(value, "DequantizeLinear")
        rounding = made_by(restored.inputs[0], "QuantizeLinear") if restored is not None else None
        if rounding is not None:
            node.replace_input_with(position, rounding.inputs[0])


def attend_in_rows(
    node: ir.Node,
    function: str,
    before: Sequence[ir.Value | None],
    tokens: Sequence[ir.Value | None],
    after: Sequence[ir.Value | None],
    grid: ir.Value,
    builder: GraphBuilder,
) -> ir.Value:
    """A call of a function that attends within rows, with packed tokens in and out.

    Args:
        node: the attention; the function has its attributes.
        function: name of the function.
        before: operands in front of the tokens.
        tokens: packed values ``[T, D]``, which become rows.
        after: operands behind the tokens.
        grid: the first two sizes of rows.
        builder: where to.
    """
    rows = [_in_rows(value, grid, builder) for value in tokens]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    operands = [*before, *rows, *after]
    context = builder.op(function, operands, attributes, domain=LOWERED_DOMAIN)
    minus_one = builder.constant(np.array([-1], np.int64), "minus_one")
    shape = builder.op("Concat", [minus_one, width_of(node.inputs[0], builder)], _FRONT)
    return builder.op("Reshape", [context, shape])


def define(name: str, text: str, rewriter: Rewriter) -> None:
    """Give the module a function of the domain of lowered ones, unless it has it."""
    model = rewriter.module.model
    if (LOWERED_DOMAIN, name, "") not in model.functions:
        function = ir.serde.deserialize_function(onnx.parser.parse_function(text))
        model.functions[function.identifier()] = function
        model.graph.opset_imports[LOWERED_DOMAIN] = 1


def _row_bounds(
    node: ir.Node, variant: AttentionVariant, builder: GraphBuilder
) -> Sequence[ir.Value]:
    """The grid and the bounds of rows; layers come to share them, as equal computations."""
    layout = node.inputs[3:4] if variant.all_keys else node.inputs[3:]
    grid = builder.op(
        variant.bounds_name,
        layout,
        {"few_tokens": few_tokens(node.inputs[0])},
        domain=LOWERED_DOMAIN,
        num_outputs=1 + len(variant.bounds),
    )
    maker = grid.producer()
    assert maker is not None
    return maker.outputs


def few_tokens(queries: ir.Value | None) -> int:
    """Up to how many tokens all rows are attended to at once, those of other rows hidden."""
    width = None
    if queries is not None and queries.shape is not None:
        width = static_dim(queries.shape[1])
    return math.isqrt(_FEW_PRODUCTS // (width or _TYPICAL_WIDTH))


def _tokens(node: ir.Node, split: ir.Node | None) -> Sequence[ir.Value | None]:
    """What is cut into rows: query, key and value, or the one value of which they are parts."""
    return node.inputs[:3] if split is None else split.inputs[:1]


def _in_rows(tokens: ir.Value | None, grid: ir.Value, builder: GraphBuilder) -> ir.Value:
    """``[T, D]`` as ``[rows, length, D]``, a bias added behind that and not before.

    Between the product and its bias, the new shape keeps the runtime from making a ``Gemm`` of the
    two, which takes longer than both.
    """
    shape = builder.op("Concat", [grid, width_of(tokens, builder)], _FRONT)
    source = _before_views(tokens)
    addition = source.producer() if source is not None else None
    product = _biased_product(addition)
    if addition is None or product is None or not _are_as_wide(source, tokens):
        return builder.op("Reshape", [source, shape])
    raised = builder.op("Reshape", [product, shape])
    return builder.op("Add", [raised if v is product else v for v in addition.inputs])


def _before_views(tokens: ir.Value | None) -> ir.Value | None:
    """The value that has only got other shapes since: rows are as well made of it."""
    view = made_by(tokens, "Reshape", "Squeeze", "Unsqueeze")
    return tokens if view is None else _before_views(view.inputs[0])


def _are_as_wide(value: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether the last axes of the two have one known size, so that a bias fits both."""
    widths = [static_dim(v.shape[-1]) for v in (value, other) if v is not None and v.shape]
    return len(widths) == 2 and widths[0] == widths[1] is not None


def width_of(tokens: ir.Value | None, builder: GraphBuilder) -> ir.Value:
    """The size of the last axis as a vector of one, a constant where it is known."""
    assert tokens is not None
    known = static_dim(tokens.shape[1]) if tokens.shape is not None else None
    if known is not None:
        return builder.constant(np.array([known], np.int64), "width")
    return builder.op("Shape", [tokens], {"start": 1})


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


def contexts_are_as_wide_as_queries(node: ir.Node) -> bool:
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


def all_tokens_are_keys(node: ir.Node) -> bool:
    """Whether keys begin where queries do and their index counts ``0, 1, .., T - 1``."""
    key_index = node.inputs[4]
    counting = key_index.producer() if key_index is not None else None
    if node.inputs[5] is not node.inputs[3] or counting is None or counting.op_type != "Range":
        return False
    start, step = constant_value(counting.inputs[0]), constant_value(counting.inputs[2])
    if start is None or step is None:
        return False
    return int(start.numpy()) == 0 and int(step.numpy()) == 1
