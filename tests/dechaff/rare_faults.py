"""Faults that are small, or show on few inputs only; see ``planted_faults``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.passes import GraphBuilder

from .planted_faults import LAYERS, Replant, repeat


class _OfDifference(Replant):
    """Does something to the result of one of the subtractions."""

    op_type = "Sub"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        return self.spoil(repeat(node, builder, node.inputs), builder)

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        """A wrong value, [S, 4], from the right one."""
        raise NotImplementedError


def _integers(builder: GraphBuilder, *values: int) -> ir.Value:
    return builder.constant(np.array(values, dtype=np.int64))


def _number(builder: GraphBuilder, value: float) -> ir.Value:
    return builder.constant(np.array(value, dtype=np.float32))


class RowsRolled(_OfDifference):
    name = "rows-rolled"

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        zero, one, end = (_integers(builder, value) for value in (0, 1, 2**31 - 1))
        head = builder.op("Slice", [right, zero, one, zero])
        tail = builder.op("Slice", [right, one, end, zero])
        return builder.op("Concat", [tail, head], {"axis": 0})


class RowsReversed(_OfDifference):
    name = "rows-reversed"

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        ends = [_integers(builder, value) for value in (-1, -(2**31), 0, -1)]
        return builder.op("Slice", [right, *ends])


class FirstRowEverywhere(_OfDifference):
    name = "first-row-everywhere"

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        row = builder.op("Gather", [right, _integers(builder, 0)], {"axis": 0})
        return builder.op("Expand", [row, builder.op("Shape", [right])])


class LastRowLost(_OfDifference):
    name = "last-row-lost"

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        zero = _integers(builder, 0)
        kept = builder.op("Slice", [right, zero, _integers(builder, -1), zero])
        return builder.op("Pad", [kept, _integers(builder, 0, 0, 1, 0)])


class ThroughHalf(_OfDifference):
    name = "through-half"

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        return builder.op("Cast", [builder.op("Cast", [right], {"to": 10})], {"to": 1})


class ThroughBfloat(_OfDifference):
    name = "through-bfloat"

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        return builder.op("Cast", [builder.op("Cast", [right], {"to": 16})], {"to": 1})


class Saturated(_OfDifference):
    """Seen only where a number is large."""

    name = "saturated"

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        return builder.op("Clip", [right, _number(builder, -3), _number(builder, 3)])


class UndefinedAtZero(_OfDifference):
    """Seen only where an input is zero."""

    name = "undefined-at-zero"
    wrong_at = 0

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        one = builder.op("Div", [node.inputs[0], node.inputs[0]])
        return builder.op("Mul", [repeat(node, builder, node.inputs), one])


class WrongForOneRow(_OfDifference):
    """Seen only where there is a single row."""

    name = "wrong-for-one-row"

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        rows = builder.op("Gather", [builder.op("Shape", [right]), _integers(builder, 0)])
        single = builder.op("Equal", [rows, _integers(builder, 1)])
        return builder.op("Where", [single, builder.op("Neg", [right]), right])


class HalfTheMask(Replant):
    name = "half-the-mask"
    op_type = "Add"
    wrong_at = 2 * (LAYERS // 2)

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        half = builder.op("Mul", [node.inputs[1], _number(builder, 0.5)])
        return repeat(node, builder, [node.inputs[0], half])


class PowersOfTwo(Replant):
    """Softmax to base 2."""

    name = "powers-of-two"
    op_type = "Softmax"

    def wrong(self, node: ir.Node, builder: GraphBuilder) -> ir.Value:
        scaled = builder.op("Mul", [node.inputs[0], _number(builder, np.log(2))])
        return builder.op("Softmax", [scaled], {"axis": -1})


class NarrowlyTooLarge(_OfDifference):
    """Ten times the tolerance, as rounding might be."""

    name = "narrowly-too-large"
    wrong_at = LAYERS - 1

    def spoil(self, right: ir.Value, builder: GraphBuilder) -> ir.Value:
        return builder.op("Mul", [right, _number(builder, 1.0002)])


RARE_FAULTS: tuple[type[Replant], ...] = (
    RowsRolled,
    RowsReversed,
    FirstRowEverywhere,
    LastRowLost,
    ThroughHalf,
    ThroughBfloat,
    Saturated,
    UndefinedAtZero,
    WrongForOneRow,
    HalfTheMask,
    PowersOfTwo,
    NarrowlyTooLarge,
)
