"""The pass ``lower-einsum``: products written as ``Einsum`` become transposes and a ``MatMul``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, static_dim

from .matching import is_op, rank, same_dim
from .pass_base import Numerics, Pass
from .rewriter import GraphBuilder, Rewriter

_RULE = "lower-einsum"


class NotAProduct(Exception):  # noqa: N818  (control flow, not an error)
    """The equation is no product of two matrices; the reason is for the report."""


class LowerEinsum(Pass):
    """Write ``Einsum`` of two operands as ``Transpose`` and ``MatMul``.

    Patterns of later passes, attention above all, then see one spelling of a product. Labels that
    both operands and the result have are the batch; those that both operands have and the result
    does not are summed over; an operand's own labels are rows and columns. Without a sum it is a
    ``Mul``.

    Before::

        before (float[B,S,2,4] q, float[B,S,2,4] k) => (float[B,2,S,S] scores)
        {
            scores = Einsum <equation = "bind,bjnd->bnij"> (q, k)
        }

    After::

        after (float[B,S,2,4] q, float[B,S,2,4] k) => (float[B,2,S,S] scores)
        {
            q_heads = Transpose <perm = [0, 2, 1, 3]> (q)
            k_heads = Transpose <perm = [0, 2, 3, 1]> (k)
            scores = MatMul (q_heads, k_heads)
        }
    """

    name = "lower-einsum"
    numerics = Numerics.REASSOCIATES
    after = ("canonicalize",)

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Rewrite each ``Einsum`` of two operands that is a product."""
        for node in list(module.nodes()):
            if not is_op(node, "Einsum") or len(node.inputs) != 2:
                continue
            try:
                product = _product_of(node)
            except NotAProduct as reason:
                rewriter.miss(_RULE, node, str(reason))
                continue
            with rewriter.rewrite(_RULE, [node], before=node) as builder:
                builder.replace(node.outputs[0], product.build(builder))


@dataclasses.dataclass(frozen=True)
class _Product:
    """An equation of two operands, its labels by what they do, in the order of the result.

    Attributes:
        operands: the two values, with a label for each axis.
        result: labels of the result.
        sizes: of the labels whose size is known before run time.
    """

    operands: tuple[tuple[ir.Value, str], tuple[ir.Value, str]]
    result: str
    sizes: dict[str, int]

    def build(self, builder: GraphBuilder) -> ir.Value:
        """The result's value, from new nodes."""
        (left, left_labels), (right, right_labels) = self.operands
        both = [label for label in left_labels if label in right_labels]
        summed = [label for label in both if label not in self.result]
        if not summed:
            factors = [self._spread(value, labels, builder) for value, labels in self.operands]
            return builder.op("Mul", factors)
        batch = [label for label in self.result if label in both]
        rows = [label for label in self.result if label not in right_labels]
        columns = [label for label in self.result if label not in left_labels]
        outer = [*rows[:-1], *batch, rows[-1]]
        left = _transposed(left, left_labels, [*outer, *summed], builder)
        right = _transposed(right, right_labels, [*batch, *summed, *columns], builder)
        if len(summed) > 1:
            left = self._merged(left, len(outer), [summed], builder)
        if len(summed) > 1 or len(columns) > 1:
            right = self._merged(right, len(batch), [summed, columns], builder)
        product = builder.op("MatMul", [left, right])
        if len(columns) > 1:
            apart = [[label] for label in columns]
            product = self._merged(product, len(outer), apart, builder)
        return _transposed(product, "".join([*outer, *columns]), list(self.result), builder)

    def _spread(self, value: ir.Value, labels: str, builder: GraphBuilder) -> ir.Value:
        """The value with its axes in the result's order, and an axis of 1 for each it lacks."""
        ordered = [label for label in self.result if label in labels]
        value = _transposed(value, labels, ordered, builder)
        missing = [axis for axis, label in enumerate(self.result) if label not in labels]
        if not missing:
            return value
        return builder.op(
            "Unsqueeze", [value, builder.constant(np.array(missing, np.int64), "axes")]
        )

    def _merged(
        self, value: ir.Value, kept: int, groups: Sequence[Sequence[str]], builder: GraphBuilder
    ) -> ir.Value:
        """``Reshape`` to the first ``kept`` axes as they are, and one axis per group behind."""
        sizes = [math.prod(self.sizes[label] for label in group) for group in groups]
        shape = builder.constant(np.array([0] * kept + sizes, np.int64), "merged_shape")
        return builder.op("Reshape", [value, shape])


def _transposed(value: ir.Value, labels: str, wanted: list[str], builder: GraphBuilder) -> ir.Value:
    perm = [labels.index(label) for label in wanted]
    if perm == list(range(len(perm))):
        return value
    return builder.op("Transpose", [value], {"perm": perm})


def _product_of(node: ir.Node) -> _Product:
    """The product that an ``Einsum`` of two operands is.

    Raises:
        NotAProduct: it is none that this pass writes.
    """
    equation = node.attributes["equation"].as_string().replace(" ", "")
    if "." in equation:
        raise NotAProduct(f"the equation {equation!r} leaves axes unnamed")
    inputs, arrow, result = equation.partition("->")
    terms = inputs.split(",")
    if not arrow:
        result = "".join(sorted(label for label in set(inputs) - {","} if inputs.count(label) == 1))
    left, right = node.inputs
    if left is None or right is None or any(len(set(term)) < len(term) for term in terms):
        raise NotAProduct(f"the equation {equation!r} takes a diagonal")
    if rank(left) != len(terms[0]) or rank(right) != len(terms[1]):
        raise NotAProduct("the rank of an operand is not known")
    if left.dtype == ir.DataType.BFLOAT16:
        raise NotAProduct("ONNX Runtime has no MatMul of bfloat16 on CPU")
    operands = ((left, terms[0]), (right, terms[1]))
    product = _Product(operands, result, _fixed_sizes(operands))
    _check(product, equation)
    return product


def _check(product: _Product, equation: str) -> None:
    (left, left_labels), (right, right_labels) = product.operands
    if any(label not in product.result for label in set(left_labels) ^ set(right_labels)):
        raise NotAProduct(f"the equation {equation!r} sums over an axis of one operand alone")
    both = [label for label in left_labels if label in right_labels]
    summed = [label for label in both if label not in product.result]
    if not summed:
        return
    columns = [label for label in right_labels if label not in both]
    if not columns or len(both) == len(left_labels):
        raise NotAProduct(f"in {equation!r} an operand has no axis of its own")
    for label in summed:
        sizes = _size(left, left_labels, label), _size(right, right_labels, label)
        if not same_dim(*sizes):
            raise NotAProduct(f"in {equation!r} the sizes of {label!r} are not known to be equal")
    merged = [*summed, *columns] if len(summed) > 1 or len(columns) > 1 else []
    unknown = [label for label in merged if label not in product.sizes]
    if unknown:
        raise NotAProduct(f"in {equation!r} the size of {unknown[0]!r} is not known to be fixed")


def _size(value: ir.Value, labels: str, label: str) -> int | ir.SymbolicDim:
    return (value.shape or ir.Shape([]))[labels.index(label)]


def _fixed_sizes(operands: Sequence[tuple[ir.Value, str]]) -> dict[str, int]:
    pairs = [
        pair for value, labels in operands for pair in zip(labels, value.shape or (), strict=True)
    ]
    return {label: size for label, dim in pairs if (size := static_dim(dim)) is not None}
