"""Token rules of products, normalizations, lookups and what runs along a feature axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import constant_value
from dechaff.passes.matching import integer_attribute, rank

from .layouts import Layout, NotTokenWise
from .token_rule import Layouts, Operands, TokenRule, known, repeat, token_operand


class MatrixProduct(TokenRule):
    """``MatMul`` of tokens with a matrix that all tokens share."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Tokens come in on the left; the right operand is a matrix."""
        layout = token_operand(node, layouts)
        if rank(node.inputs[1]) != 2:
            raise NotTokenWise("the right operand of MatMul is no matrix")
        if layout.rank - 1 in layout.token_axes:
            raise NotTokenWise("MatMul sums over an axis that indexes tokens")
        return layout

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same product, ``[T, ..., K] x [K, N]``."""
        tokens = operands.packed(known(node.inputs[0]))
        return repeat(node, [tokens, node.inputs[1]], operands.builder)


class AffineProduct(TokenRule):
    """``Gemm`` of merged tokens ``[B * S, K]`` with a matrix that all tokens share."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Tokens are the rows of the left operand, not transposed."""
        layout = token_operand(node, layouts)
        if not layout.merged or integer_attribute(node, "transA", 0):
            raise NotTokenWise("Gemm's left operand does not hold a token in each row")
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and rank(bias) != 1:
            raise NotTokenWise("Gemm's bias is no vector")
        return layout

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same product, ``[T, K] x [K, N]``."""
        tokens = operands.packed(known(node.inputs[0]))
        return repeat(node, [tokens, *node.inputs[1:]], operands.builder)


class Normalization(TokenRule):
    """Layer and RMS normalization over trailing feature axes."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """All normalized axes must be features."""
        layout = token_operand(node, layouts)
        first = integer_attribute(node, "axis", -1) % layout.rank
        if any(axis >= first for axis in layout.token_axes):
            raise NotTokenWise("normalizes over an axis that indexes tokens")
        return layout

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same operator, its axis counted from the end."""
        layout = token_operand(node, operands.layouts)
        axis = integer_attribute(node, "axis", -1) % layout.rank - layout.rank
        tokens = operands.packed(known(node.inputs[0]))
        return repeat(node, [tokens, *node.inputs[1:]], operands.builder, axis=axis)


class AlongFeatureAxis(TokenRule):
    """Operators whose ``axis`` attribute names a feature axis: Softmax, Split, Concat."""

    def __init__(self, default_axis: int) -> None:
        self._default = default_axis

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """All operands that have tokens have them on the same axes."""
        found = {layouts[v] for v in node.inputs if v is not None and v in layouts}
        if len(found) != 1:
            raise NotTokenWise("the operands hold their tokens on different axes")
        layout = found.pop()
        if node.op_type == "Concat" and any(v not in layouts for v in node.inputs if v):
            raise NotTokenWise("joins tokens with something that is not per token")
        layout.packed_axis(integer_attribute(node, "axis", self._default))
        return layout

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same operator on the packed axis."""
        layout = self.layout(node, operands.layouts, operands.mask)
        axis = layout.packed_axis(integer_attribute(node, "axis", self._default))
        inputs = [
            operands.packed(v) if v is not None and v in operands.layouts else v
            for v in node.inputs
        ]
        return repeat(node, inputs, operands.builder, axis=axis)


class FeatureReduction(TokenRule):
    """Reductions over constant feature axes."""

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Reduced axes must be features; dropped axes must lie behind the token axes."""
        layout = token_operand(node, layouts)
        axes = self._axes(node, layout)
        if integer_attribute(node, "keepdims", 1):
            return layout
        if any(axis < max(layout.token_axes) for axis in axes):
            raise NotTokenWise("drops an axis before the token axes")
        return layout.placed(layout.rank - len(axes), layout.batch_axis, layout.sequence_axis)

    def _axes(self, node: ir.Node, layout: Layout) -> list[int]:
        tensor = constant_value(node.inputs[1]) if len(node.inputs) > 1 else None
        if tensor is None:
            raise NotTokenWise("reduces over all axes, tokens included")
        axes = [int(axis) % layout.rank for axis in tensor.numpy().reshape(-1)]
        for axis in axes:
            layout.packed_axis(axis)
        return axes

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same operator over the packed axes."""
        layout = token_operand(node, operands.layouts)
        packed = [layout.packed_axis(axis) for axis in self._axes(node, layout)]
        axes = operands.builder.constant(np.array(packed, np.int64), "axes")
        tokens = operands.packed(known(node.inputs[0]))
        return repeat(node, [tokens, axes], operands.builder)


class Lookup(TokenRule):
    """``Gather`` of table rows by token ids ``[B, S]``: an embedding. Of tokens, of features."""

    def __init__(self, of_tokens: TokenRule) -> None:
        self._of_tokens = of_tokens

    def layout(self, node: ir.Node, layouts: Layouts, mask: ir.Value) -> Layout:
        """Ids come in as the indices; the table holds no tokens."""
        if node.inputs[0] in layouts:
            return self._of_tokens.layout(node, layouts, mask)
        layout = token_operand(node, layouts, position=1)
        if integer_attribute(node, "axis", 0) != 0:
            raise NotTokenWise("looks up along another axis than the table's first")
        width = rank(node.inputs[0])
        if width is None:
            raise NotTokenWise("the shape of the table is not known")
        return layout.placed(layout.rank + width - 1, layout.batch_axis, layout.sequence_axis)

    def emit(self, node: ir.Node, operands: Operands) -> list[ir.Value]:
        """The same lookup of the packed ids."""
        if node.inputs[0] in operands.layouts:
            return self._of_tokens.emit(node, operands)
        ids = operands.packed(known(node.inputs[1]))
        return repeat(node, [node.inputs[0], ids], operands.builder)
