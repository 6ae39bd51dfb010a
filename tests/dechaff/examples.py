"""Small graphs and passes that the tests of the public face share."""

from __future__ import annotations

import numpy as np

from dechaff.ir import Module, ValidPositions, parse
from dechaff.passes import Numerics, Pass, Rewriter


def numbers(*shape: int) -> str:
    """A float tensor in text form, the same each time."""
    values = np.random.default_rng(7).standard_normal(shape).round(3).reshape(-1)
    return "{" + ", ".join(str(value) for value in values) + "}"


MASKED_ENCODER = f"""
<ir_version: 10, opset_import: ["" : 23]>
encoder (int64[B,S] input_ids, int64[B,S] attention_mask) => (float[B,S,4] hidden)
<float[10,4] table = {numbers(10, 4)}, float[4,4] weight = {numbers(4, 4)},
 int64[1] last = {{-1}}, int64[1] axis = {{1}}>
{{
    embedded = Gather (table, input_ids)
    mask = Cast <to = 1> (attention_mask)
    column = Unsqueeze (mask, last)
    kept = Mul (embedded, column)
    total = ReduceSum <keepdims = 1> (kept, axis)
    mixed = Add (embedded, total)
    hidden = MatMul (mixed, weight)
}}
"""
"""Every position sees the sum of all kept ones; padded positions hold numbers of no meaning."""

UNKNOWN_OPERATOR = """
<ir_version: 10, opset_import: ["" : 23, "com.example" : 1]>
foreign (float[B,4] x) => (float[B,4] y)
{
    doubled = Add (x, x)
    y = com.example.Mystery (doubled)
}
"""

LINEAR = f"""
<ir_version: 10, opset_import: ["" : 23]>
linear (float[B,4] x) => (float[B,4] y)
<float[4,4] weight = {numbers(4, 4)}>
{{
    product = MatMul (x, weight)
    y = Add (product, x)
}}
"""

ATTENTION_MODEL = """
<ir_version: 10, opset_import: ["" : 23]>
model (float[B,S,8] x, int64[B,S] attention_mask) => (float[B,S,8] y)
<float[8] gamma = {1, 2, 3, 4, 5, 6, 7, 8}, int64[2] axes = {1, 2},
 int64[2] leading = {1, 1}, int64[1] one = {1}>
{
    h = LayerNormalization (x, gamma)
    valid = Cast <to = 9> (attention_mask)
    keys = Unsqueeze (valid, axes)
    length = Shape <start = 1, end = 2> (attention_mask)
    mask_shape = Concat <axis = 0> (leading, length, one)
    written_out = Expand (keys, mask_shape)
    c = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h, h, h, written_out)
    y = Relu (c)
}
"""
"""Attention over rows whose padding a mask tells."""


def masked_encoder() -> Module:
    return parse(MASKED_ENCODER, source="encoder.onnx")


def linear() -> Module:
    return parse(LINEAR, source="linear.onnx")


class AddOne(Pass):
    """Wrong on purpose: adds one to the first output."""

    name = "add-one"
    numerics = Numerics.EXACT

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        output = module.graph.outputs[0]
        node = output.producer()
        assert node is not None
        with rewriter.rewrite("add-one", [node]) as builder:
            again = builder.op(node.op_type, list(node.inputs))
            one = builder.constant(np.ones(1, dtype=np.float32))
            builder.replace(output, builder.op("Add", [again, one]))


class SwapOperands(Pass):
    """Right: swaps the operands of every addition."""

    name = "swap-operands"
    numerics = Numerics.EXACT

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        for node in [node for node in module.graph if node.op_type == "Add"]:
            with rewriter.rewrite("swap", [node]) as builder:
                swapped = builder.op("Add", [node.inputs[1], node.inputs[0]])
                builder.replace(node.outputs[0], swapped)


class ZeroPadding(Pass):
    """Right: sets padded positions of the output to zero, and declares it."""

    name = "zero-padding"
    numerics = Numerics.EXACT
    declares = True

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        output = module.graph.outputs[0]
        node = output.producer()
        column = next(n.outputs[0] for n in module.graph if n.op_type == "Unsqueeze")
        assert node is not None
        name = output.name or ""
        with rewriter.rewrite("zero", [node]) as builder:
            again = builder.op(node.op_type, list(node.inputs))
            builder.replace(output, builder.op("Mul", [again, column]))
        if self.declares:
            module.valid_positions.append(ValidPositions(output=name, mask="attention_mask"))


class ZeroPaddingSilently(ZeroPadding):
    """Wrong: sets padded positions to zero without declaring it."""

    name = "zero-padding-silently"
    declares = False


class Decline(Pass):
    """Never applies, and says why."""

    name = "decline"
    numerics = Numerics.EXACT

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        for node in module.graph:
            if node.op_type == "MatMul":
                rewriter.miss("decline-rule", node, "the weight is too square")
