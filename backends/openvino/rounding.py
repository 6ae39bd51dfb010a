"""Rounding to integers for OpenVINO: where, and in which form, it takes least time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from dechaff.ir import constant_value
from dechaff.passes import GraphBuilder, Rewriter
from dechaff.passes.matching import integer_attribute, is_op, only_consumer

_PART_OF_PRODUCTS = ("Add", "Gelu", "Mul", "Tanh")
"""What OpenVINO's kernels compute as they write a product, as they do a rounding."""


def place_roundings(rewriter: Rewriter) -> None:
    """In the main graph: what is gathered is integers, and no rounding stands by itself."""
    sweep = common_passes.RemoveUnusedNodesPass()
    for node in _roundings(rewriter):
        _round_before_gather(node, rewriter)
    sweep(rewriter.module.model)
    for node in _roundings(rewriter):
        if not _ends_a_product(node):
            _raise_before_rounding(node, rewriter)
    sweep(rewriter.module.model)


def _roundings(rewriter: Rewriter) -> list[ir.Node]:
    """Each ``QuantizeLinear`` with one constant scale and zero point."""
    found = [node for node in rewriter.module.graph if is_op(node, "QuantizeLinear")]
    return [node for node in found if len(node.inputs) == 3 and all(map(_is_one, node.inputs[1:]))]


def _is_one(value: ir.Value | None) -> bool:
    tensor = constant_value(value)
    return tensor is not None and len(tensor.shape) == 0


def _round_before_gather(node: ir.Node, rewriter: Rewriter) -> None:
    """Round what is joined along the first axis, gathered from there, and perhaps scaled."""
    makers = _sole_makers(node.inputs[0])
    kinds = [maker.op_type for maker in makers]
    length = 3 if kinds[:1] == ["Mul"] else 2
    if kinds[:length][-2:] != ["Gather", "Concat"]:
        return
    chain = makers[:length]
    *scaling, gather, joined = chain
    if integer_attribute(gather, "axis", 0) != 0 or integer_attribute(joined, "axis", 0) != 0:
        return
    factor = scaling[0].inputs[1] if scaling else None
    if scaling and len(getattr(constant_value(factor), "shape", ())) != 1:
        return

    def rounded(part: ir.Value | None, builder: GraphBuilder) -> ir.Value:
        scaled = part if factor is None else builder.op("Mul", [part, factor])
        return builder.op("QuantizeLinear", [scaled, *node.inputs[1:]])

    with rewriter.rewrite("round-before-gather", [*chain, node], node) as builder:
        parts = [rounded(part, builder) for part in joined.inputs]
        integers = builder.op("Concat", parts, {"axis": 0})
        gathered = builder.op("Gather", [integers, gather.inputs[1]], {"axis": 0})
        builder.replace(node.outputs[0], gathered)


def _sole_makers(value: ir.Value | None) -> list[ir.Node]:
    """Back from a value over first operands, as long as nothing else reads what lies between."""
    found: list[ir.Node] = []
    while value is not None and only_consumer(value) is not None:
        maker = value.producer()
        if maker is None or maker.domain != "":
            break
        found.append(maker)
        value = maker.inputs[0] if maker.inputs else None
    return found


def _ends_a_product(node: ir.Node) -> bool:
    """Whether the kernel of a product computes all from it to the rounding."""
    for maker in _sole_makers(node.inputs[0]):
        if maker.op_type == "MatMul":
            return True
        if maker.op_type not in _PART_OF_PRODUCTS:
            return False
    return False


def _raise_before_rounding(node: ir.Node, rewriter: Rewriter) -> None:
    """Raise numbers below the range to its end, which changes nothing that is rounded.

    OpenVINO makes a rounding part of an element-wise operator before it, if that has no other
    reader. A rounding by itself takes three times as long, and a ``Mul`` would become part of it;
    a ``Max`` does not.
    """
    scale, zero_point = (constant_value(value) for value in node.inputs[1:3])
    assert scale is not None  # a rounding in question has both as constants
    assert zero_point is not None
    lowest = np.iinfo(zero_point.dtype.numpy()).min - int(zero_point.numpy())
    with rewriter.rewrite("raise-before-rounding", [node]) as builder:
        bound = builder.constant(np.array(lowest * float(scale.numpy()), np.float32), "lowest")
        raised = builder.op("Max", [node.inputs[0], bound])
        rounded = builder.op("QuantizeLinear", [raised, *node.inputs[1:3]])
        builder.replace(node.outputs[0], rounded)
