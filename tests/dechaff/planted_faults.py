"""Passes that are wrong at one of many places: what a search for faults must find."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, constant_value, parse
from dechaff.passes import GraphBuilder, Numerics, Pass, Rewriter

from .examples import numbers

LAYERS = 6


def _layer(index: int) -> str:
    """Attention over a masked row, by hand, so that every kind of fault has a place."""
    x, y = f"h{index}", f"h{index + 1}"
    return f"""
    query{index} = MatMul ({x}, weight)
    scores{index} = MatMul (query{index}, keys)
    scaled{index} = Mul (scores{index}, scale)
    masked{index} = Add (scaled{index}, bias)
    shares{index} = Softmax <axis = -1> (masked{index})
    context{index} = MatMul (shares{index}, values)
    difference{index} = Sub ({x}, context{index})
    gathered{index} = Gather <axis = 0> (table, picked)
    {y} = Add (difference{index}, gathered{index})"""


DEEP_MODEL = f"""
<ir_version: 10, opset_import: ["" : 23]>
deep (float[S,4] h0, float[5] bias) => (float[S,4] h{LAYERS})
<float[4,4] weight = {numbers(4, 4)}, float[4,5] keys = {numbers(4, 5)},
 float[5,4] values = {numbers(5, 4)}, float[6,4] table = {numbers(6, 4)},
 float scale = {{0.5}}, int64 picked = {{2}}>
{{{"".join(_layer(index) for index in range(LAYERS))}
}}
"""


def deep_model() -> Module:
    """Six layers; a rewrite touches one node of each."""
    return parse(DEEP_MODEL, source="deep.onnx")


class Replant(Pass):
    """Repeats every operation of one kind, and repeats one of them wrongly.

    Attributes:
        wrong_at: which occurrence is wrong, from 0; a negative one is none.
    """

    name = "replant"
    numerics = Numerics.EXACT
    op_type = "Add"
    wrong_at = LAYERS // 2

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        nodes = [node for node in module.graph if node.op_type == self.op_type]
        for index, node in enumerate(nodes):
            with rewriter.rewrite(f"{self.name}-rule", [node]) as builder:
                if index == self.wrong_at:
                    result = self.wrong(node, builder)
                else:
                    result = repeat(node, builder, node.inputs)
                builder.replace(node.outputs[0], result)

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        """The operation, with the fault."""
        raise NotImplementedError


def repeat(node: ir.Node, builder: GraphBuilder, inputs: Sequence[ir.Value | None]) -> ir.Value:
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return builder.op(node.op_type, inputs, attributes)


class WrongScale(Replant):
    name = "wrong-scale"
    op_type = "Mul"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        scale = builder.constant(np.array(0.25, dtype=np.float32))
        return repeat(node, builder, [node.inputs[0], scale])


class OffByOneGather(Replant):
    name = "off-by-one-gather"
    op_type = "Gather"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        index = constant_value(node.inputs[1])
        assert index is not None
        shifted = builder.constant(index.numpy() + 1)
        return repeat(node, builder, [node.inputs[0], shifted])


class SwappedOperands(Replant):
    name = "swapped-operands"
    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return repeat(node, builder, list(reversed(node.inputs)))


class DroppedMask(Replant):
    name = "dropped-mask"
    op_type = "Add"
    wrong_at = 2 * (LAYERS // 2)

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return builder.op("Identity", [node.inputs[0]])


class WrongAxis(Replant):
    name = "wrong-axis"
    op_type = "Softmax"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return builder.op("Softmax", node.inputs, {"axis": 0})


class TransposedWeight(Replant):
    name = "transposed-weight"
    op_type = "MatMul"
    wrong_at = 3 * (LAYERS // 2)

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        transposed = builder.op("Transpose", [node.inputs[1]], {"perm": [1, 0]})
        return repeat(node, builder, [node.inputs[0], transposed])


class NotANumber(Replant):
    name = "not-a-number"
    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        right = repeat(node, builder, node.inputs)
        return builder.op("Log", [builder.op("Neg", [builder.op("Abs", [right])])])


class DroppedScale(Replant):
    name = "dropped-scale"
    op_type = "Mul"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return builder.op("Identity", [node.inputs[0]])


class WrongSign(Replant):
    name = "wrong-sign"
    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return builder.op("Add", node.inputs)


class LostPrecision(Replant):
    name = "lost-precision"
    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        step = builder.constant(np.array(64, dtype=np.float32))
        scaled = builder.op("Mul", [repeat(node, builder, node.inputs), step])
        return builder.op("Div", [builder.op("Round", [scaled]), step])


class ClippedAtZero(Replant):
    name = "clipped-at-zero"
    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return builder.op("Relu", [repeat(node, builder, node.inputs)])


class WrongTable(Replant):
    name = "wrong-table"
    op_type = "Gather"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        table = constant_value(node.inputs[0])
        assert table is not None
        upside_down = builder.constant(np.ascontiguousarray(table.numpy()[::-1]))
        return repeat(node, builder, [upside_down, node.inputs[1]])


class SlightlyTooLarge(Replant):
    """A thousandth: seen only by a tolerance that goes by the dtype."""

    name = "slightly-too-large"
    op_type = "MatMul"
    wrong_at = 5

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        factor = builder.constant(np.array(1.001, dtype=np.float32))
        return builder.op("Mul", [repeat(node, builder, node.inputs), factor])


class WrongEpsilon(Replant):
    name = "wrong-epsilon"
    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        epsilon = builder.constant(np.array(1e-2, dtype=np.float32))
        return builder.op("Add", [repeat(node, builder, node.inputs), epsilon])


class RowsLeak(Replant):
    """A row depends on which other rows there are."""

    name = "rows-leak"
    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        axes = builder.constant(np.array([0], dtype=np.int64))
        mean = builder.op("ReduceMean", [node.inputs[0], axes])
        return repeat(node, builder, [mean, node.inputs[1]])


class LogarithmOfShares(Replant):
    name = "logarithm-of-shares"
    op_type = "Softmax"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return builder.op("LogSoftmax", node.inputs, {"axis": -1})


class DoubledResidual(Replant):
    name = "doubled-residual"
    op_type = "Add"
    wrong_at = 1

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return repeat(node, builder, [repeat(node, builder, node.inputs), node.inputs[0]])


class Truncated(Replant):
    name = "truncated"
    op_type = "Mul"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return builder.op("Floor", [repeat(node, builder, node.inputs)])


class WrongShape(Replant):
    """The runtime refuses what it makes."""

    name = "wrong-shape"
    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        seven = builder.constant(np.ones(7, dtype=np.float32))
        return builder.op("Add", [repeat(node, builder, node.inputs), seven])


class Crashes(Replant):
    """The pass itself fails."""

    name = "crashes"
    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        raise KeyError("a defect")


class RightMul(Replant):
    name = "right-mul"
    op_type = "Mul"
    wrong_at = -1


class RightSub(Replant):
    name = "right-sub"
    op_type = "Sub"
    wrong_at = -1


NUMERIC_FAULTS: tuple[type[Replant], ...] = (
    WrongScale,
    OffByOneGather,
    SwappedOperands,
    DroppedMask,
    WrongAxis,
    TransposedWeight,
    NotANumber,
    DroppedScale,
    WrongSign,
    LostPrecision,
    ClippedAtZero,
    WrongTable,
    SlightlyTooLarge,
    WrongEpsilon,
    RowsLeak,
    LogarithmOfShares,
    DoubledResidual,
    Truncated,
)
