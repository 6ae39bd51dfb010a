"""Token rules of operations that add, drop or repeat feature axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value, static_dim
from dechaff.passes.matching import axes_from, integer_attribute, rank

from .layouts import Layout, NotTokenWise, same_size
from .token_rule import Layouts, Operands, TokenRule, known, repeat, token_operand


class FeatureUnsqueeze(TokenRule):
    """``Unsqueeze``: the new axes are features, wherever they go."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """The token axes make room for the new ones."""
        layout = token_operand(node, layouts)
        added = _axes(node, rank(node.outputs[0]))
        kept = [axis for axis in range(layout.rank + len(added)) if axis not in added]
        batch, sequence = kept[layout.batch_axis], kept[layout.sequence_axis]
        return layout.placed(layout.rank + len(added), batch, sequence)

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same axes, counted in the packed value."""
        after = self.layout(node, operands.layouts, operands.mask)
        added = sorted(after.packed_axis(axis) for axis in _axes(node, after.rank))
        return [_with_axes("Unsqueeze", node, added, operands)]


class FeatureSqueeze(TokenRule):
    """``Squeeze`` of feature axes."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """The token axes close the gaps."""
        layout = token_operand(node, layouts)
        dropped = _axes(node, layout.rank)
        for axis in dropped:
            layout.packed_axis(axis)
        batch, sequence = (
            axis - sum(each < axis for each in dropped)
            for axis in (layout.batch_axis, layout.sequence_axis)
        )
        return layout.placed(layout.rank - len(dropped), batch, sequence)

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same axes, counted in the packed value."""
        layout = token_operand(node, operands.layouts)
        dropped = sorted(layout.packed_axis(axis) for axis in _axes(node, layout.rank))
        return [_with_axes("Squeeze", node, dropped, operands)]


class FeatureExpand(TokenRule):
    """``Expand`` that repeats features and leaves batch and sequence as long as they are."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Axes are added at the left only; feature sizes after are known before run time."""
        layout = token_operand(node, layouts)
        before, after = known(node.inputs[0]).shape, node.outputs[0].shape
        if before is None or after is None or len(after) < layout.rank:
            raise NotTokenWise("the shape after Expand is not known")
        wide = layout.broadcast_to(len(after))
        shift = len(after) - layout.rank
        if any(not same_size(before[axis - shift], after[axis]) for axis in wide.token_axes):
            raise NotTokenWise("repeats along an axis that indexes tokens")
        if any(static_dim(after[axis]) is None for axis in wide.feature_axes):
            raise NotTokenWise("a feature size after Expand is not known before run time")
        return wide

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """``Expand`` of the packed features."""
        wide = self.layout(node, operands.layouts, operands.mask)
        tokens, build = operands.packed(known(node.inputs[0])), operands.builder
        added = wide.rank - token_operand(node, operands.layouts).rank
        if added:
            axes = build.constant(np.arange(1, 1 + added, dtype=np.int64), "axes")
            tokens = build.op("Unsqueeze", [tokens, axes])
        shape = node.outputs[0].shape
        sizes = [static_dim(shape[axis]) for axis in wide.feature_axes] if shape else []
        target = build.constant(np.array([1, *sizes], np.int64), "packed_shape")
        return [build.op("Expand", [tokens, target])]


class FeaturePick(TokenRule):
    """``Gather`` of constant places on a feature axis: one of the parts of a joint projection."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """The picked axis gives way to those of the indices."""
        layout = token_operand(node, layouts)
        if constant_value(node.inputs[1]) is None:
            raise NotTokenWise("which features it picks is not known before run time")
        axis = integer_attribute(node, "axis", 0) % layout.rank
        layout.packed_axis(axis)
        more = (rank(node.inputs[1]) or 0) - 1
        batch, sequence = (
            token + more * (axis < token) for token in (layout.batch_axis, layout.sequence_axis)
        )
        return layout.placed(layout.rank + more, batch, sequence)

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same places on the packed axis."""
        layout = token_operand(node, operands.layouts)
        axis = layout.packed_axis(integer_attribute(node, "axis", 0))
        tokens = operands.packed(known(node.inputs[0]))
        return repeat(node, [tokens, node.inputs[1]], operands.builder, axis=axis)


def _axes(node: ir.Node, of_rank: int | None) -> tuple[int, ...]:
    axes = axes_from(node.inputs[1], of_rank) if len(node.inputs) > 1 else None
    if axes is None:
        raise NotTokenWise("its axes are not known before run time")
    return axes


def _with_axes(op_type: str, node: ir.Node, axes: list[int], operands: Operands) -> ir.Value:
    tokens = operands.packed(known(node.inputs[0]))
    listed = operands.builder.constant(np.array(axes, np.int64), "axes")
    return operands.builder.op(op_type, [tokens, listed])
