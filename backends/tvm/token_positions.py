"""Positions of some packed tokens among others, without a search that only a run can size.

A model that reads a position which may be padding (BERT's pooler reads the first) has several
layouts: of the tokens that are kept, of those that are attended to, and of those given back.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from dechaff.ir import DOMAIN, Module
from dechaff.passes import Rewriter


def look_positions_up(module: Module) -> None:
    """Replace searches for the tokens of one layout among those of another, in place.

    Before::

        before (bool[B,S] few, bool[B,S] more) => (int64[N] positions)
        <int64[1] all = {-1}>
        {
            many = Or (few, more)
            few_index, few_starts, few_places = dechaff.TokenLayout (few)
            index, starts, places = dechaff.TokenLayout (many)
            flat = Reshape (few, all)
            is_kept = Gather <axis = 0> (flat, index)
            found = NonZero (is_kept)
            positions = Reshape (found, all)
        }

    Afterwards ``positions`` are the elements of ``places`` at ``few_index``: every token of the one
    layout is among those of the other, as its mask is an operand of the other's ``Or``.
    """
    rewriter = Rewriter(module)
    for node in list(module.graph):
        if node.op_type == "NonZero" and node.domain == "":
            _look_up(node, rewriter)
    common_passes.RemoveUnusedNodesPass()(module.model)


def _look_up(node: ir.Node, rewriter: Rewriter) -> None:
    gather = _producer(node.inputs[0], "Gather")
    flat = None if gather is None else _producer(gather.inputs[0], "Reshape")
    many = None if gather is None else _producer(gather.inputs[1], "TokenLayout", DOMAIN)
    if gather is None or flat is None or many is None or not _is_first_output(gather.inputs[1]):
        return
    few = _layout_of(flat.inputs[0])
    axis = gather.attributes.get("axis")
    if few is None or (axis is not None and axis.as_int() != 0):
        return
    if not _is_within(flat.inputs[0], many.inputs[0]):
        return
    with rewriter.rewrite("look-positions-up", [node]) as builder:
        all_of_them = builder.constant(np.array([-1], np.int64), "all")
        # Of room beyond the last token the index is 0, a place that the other may not keep.
        zero = builder.constant(np.array(0, np.int64), "zero")
        places = builder.op("Max", [builder.op("Reshape", [many.outputs[2], all_of_them]), zero])
        found = builder.op("Gather", [places, few.outputs[0]], {"axis": 0})
        row = builder.constant(np.array([0], np.int64), "row")
        builder.replace(node.outputs[0], builder.op("Unsqueeze", [found, row]))


def _producer(value: ir.Value | None, op_type: str, domain: str = "") -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and (node.domain, node.op_type) == (domain, op_type) else None


def _is_first_output(value: ir.Value | None) -> bool:
    return value is not None and value.index() == 0


def _layout_of(mask: ir.Value | None) -> ir.Node | None:
    """The layout of a mask."""
    uses = () if mask is None else mask.uses()
    return next((use.node for use in uses if use.node.op_type == "TokenLayout"), None)


def _is_within(part: ir.Value | None, whole: ir.Value | None) -> bool:
    """Whether a mask is certainly false where another is."""
    if part is whole:
        return True
    either = _producer(whole, "Or")
    if either is not None and any(_is_within(part, operand) for operand in either.inputs):
        return True
    both = _producer(part, "And")
    return both is not None and any(_is_within(operand, whole) for operand in both.inputs)
