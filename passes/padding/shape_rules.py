"""Token rules of operations that move axes: reshape, transpose, slice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value, static_dim
from dechaff.passes.matching import permutation

from .layouts import Layout, NotTokenWise, same_size
from .token_rule import Layouts, Operands, TokenRule, known, repeat, token_operand


class FeatureReshape(TokenRule):
    """``Reshape`` that keeps tokens apart, merges ``[B, S]`` into one axis or takes it apart."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Token axes lead before and after, or keep the features on each side of them together.

        Feature sizes after are known before run time.
        """
        layout, result = token_operand(node, layouts), node.outputs[0].shape
        if result is None or mask.shape is None:
            raise NotTokenWise("the shape after Reshape is not known")
        swapped = _sequence_first(layout, result, mask.shape) if len(result) else None
        if swapped is not None:
            return swapped
        if not layout.leads:
            return _regrouped(layout, known(node.inputs[0]).shape, result)
        if len(result) >= 2 and all(same_size(result[i], mask.shape[i]) for i in (0, 1)):
            after = Layout(len(result))
        elif len(result) >= 1 and _is_product(result[0], mask.shape):
            after = Layout(len(result), 0, 0)
        else:
            raise NotTokenWise("Reshape moves or mixes batch and sequence")
        if any(static_dim(result[axis]) is None for axis in after.feature_axes):
            raise NotTokenWise("a feature size after Reshape is not known before run time")
        return after

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """``Reshape`` of the features alone."""
        after = self.layout(node, operands.layouts, operands.mask)
        shape = node.outputs[0].shape
        features = [static_dim(shape[axis]) for axis in after.feature_axes] if shape else []
        target = np.array([0, *features], np.int64)
        tokens = operands.packed(known(node.inputs[0]))
        if _static_features(tokens) == features:
            return [tokens]
        shape_value = operands.builder.constant(target, "packed_shape")
        return [operands.builder.op("Reshape", [tokens, shape_value])]


def _sequence_first(layout: Layout, after: ir.Shape, sizes: ir.Shape) -> Layout | None:
    """``[S, B, ...]`` merged into ``[S * B, ...]``, or taken apart again; None if neither."""
    is_merged = _is_product(after[0], sizes)
    if any(static_dim(dim) is None for dim in list(after)[1 if is_merged else 2 :]):
        return None
    comes_merged = layout.merged and layout.sequence_first
    if is_merged and (comes_merged or (layout.batch_axis, layout.sequence_axis) == (1, 0)):
        return Layout(len(after), 0, 0, sequence_first=True)
    if not comes_merged or len(after) < 2:
        return None
    parts = same_size(after[0], sizes[1]) and same_size(after[1], sizes[0])
    return Layout(len(after), 1, 0) if parts else None


def _regrouped(layout: Layout, before: ir.Shape | None, after: ir.Shape) -> Layout:
    """Where the token axes lie after features have been split or merged among themselves."""
    if before is None or layout.merged:
        raise NotTokenWise("reshapes a value whose token axes do not lead")
    first, second = sorted(layout.token_axes)
    wanted = _group_sizes(before, first, second)
    for left, right in itertools.combinations(range(len(after)), 2):
        keeps = same_size(before[first], after[left]) and same_size(before[second], after[right])
        if keeps and None not in wanted and wanted == _group_sizes(after, left, right):
            moved = {first: left, second: right}
            return Layout(len(after), moved[layout.batch_axis], moved[layout.sequence_axis])
    raise NotTokenWise("Reshape mixes features with batch or sequence")


def _group_sizes(shape: ir.Shape, first: int, second: int) -> list[int | None]:
    """Numbers of features before, between and behind two axes."""
    sizes = [static_dim(dim) for dim in shape]
    groups = (sizes[:first], sizes[first + 1 : second], sizes[second + 1 :])
    return [None if None in group else math.prod(size or 0 for size in group) for group in groups]


def _static_features(value: ir.Value) -> list[int | None]:
    return [static_dim(dim) for dim in list(value.shape)[1:]] if value.shape is not None else []


def _is_product(dim: int | ir.SymbolicDim, sizes: ir.Shape) -> bool:
    if isinstance(dim, int):
        known = [static_dim(size) for size in sizes]
        return None not in known and math.prod(size or 0 for size in known) == dim
    product = sizes[0] * sizes[1]
    return isinstance(product, ir.SymbolicDim) and same_size(dim, product)


class AxesPermutation(TokenRule):
    """``Transpose``: token axes move, and in the packed value only features change places."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Follow the token axes; merged or split, they may go anywhere."""
        layout, perm = token_operand(node, layouts), permutation(node)
        if perm is None:
            raise NotTokenWise("the permutation is not known")
        batch, sequence = (perm.index(a) for a in (layout.batch_axis, layout.sequence_axis))
        return layout.placed(layout.rank, batch, sequence)

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """A permutation of the features; nothing at all where they keep their order."""
        before = token_operand(node, operands.layouts)
        after = self.layout(node, operands.layouts, operands.mask)
        perm = permutation(node) or ()
        packed = [0, *(before.packed_axis(perm[axis]) for axis in after.feature_axes)]
        tokens = operands.packed(known(node.inputs[0]))
        if packed == list(range(len(packed))):
            return [tokens]
        return [operands.builder.op("Transpose", [tokens], {"perm": packed})]


class FeatureSlice(TokenRule):
    """``Slice`` along constant feature axes."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Sliced axes must be features."""
        layout = token_operand(node, layouts)
        self._axes(node, layout)
        return layout

    def _axes(self, node: ir.Node, layout: Layout) -> list[int]:
        axes = constant_value(node.inputs[3]) if len(node.inputs) > 3 else None
        if axes is None:
            raise NotTokenWise("the sliced axes are not known before run time")
        return [layout.packed_axis(int(axis)) for axis in axes.numpy().reshape(-1)]

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same slice on the packed axes."""
        layout = token_operand(node, operands.layouts)
        packed = np.array(self._axes(node, layout), np.int64)
        axes = operands.builder.constant(packed, "axes")
        tokens = operands.packed(known(node.inputs[0]))
        inputs = [tokens, *node.inputs[1:3], axes, *node.inputs[4:]]
        return repeat(node, inputs, operands.builder)
