"""Rules of ``canonicalize`` for operators that arrange data; exact to the bit."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import sympy

from dechaff.ir import ShapeData, shape_expressions

from .matching import axes_from, integer_attribute, is_op, made_by, permutation, rank
from .replacement import Replacement, forward
from .rewriter import GraphBuilder, Rewriter

_SWAPPED = (0, 2, 1)


def remove_expand(node: ir.Node, rewriter: Rewriter) -> Replacement | None:
    """``Expand`` to the shape that is there already."""
    x = node.inputs[0]
    own, target = shape_expressions(x), rewriter.shape_data.evaluate(node.inputs[1])
    if x is None or own is None or target is None or len(target) > len(own):
        return None
    trailing = own[len(own) - len(target) :]
    if all(size in (1, mine) for mine, size in zip(trailing, target, strict=True)):
        return forward("remove-expand", x, node)
    return None


def remove_slice(node: ir.Node, rewriter: Rewriter) -> Replacement | None:
    """``Slice`` that takes everything: from 0 in steps of 1 to the end or beyond."""
    x, data = node.inputs[0], rewriter.shape_data
    starts, ends = data.evaluate(node.inputs[1]), data.evaluate(node.inputs[2])
    of_rank = rank(x)
    if x is None or x.shape is None or starts is None or ends is None or of_rank is None:
        return None
    axes = data.evaluate(node.inputs[3]) if _has_input(node, 3) else tuple(range(len(starts)))
    steps = data.evaluate(node.inputs[4]) if _has_input(node, 4) else (1,) * len(starts)
    if axes is None or steps is None or any(step != 1 for step in steps):
        return None
    if any(start != 0 for start in starts) or any(axis is None for axis in axes):
        return None
    out, own = shape_expressions(node.outputs[0]), shape_expressions(x)
    unbounded = all(end is not None and end == np.iinfo(np.int64).max for end in ends)
    if unbounded or (out is not None and out == own and None not in ends):
        return forward("remove-slice", x, node)
    return None


def shape_of_input(node: ir.Node, rewriter: Rewriter) -> Replacement | None:
    """``Shape`` of a value whose sizes an input of the model has too: that of the input.

    Exporters ask each layer's own tensors for the batch size. What they compute of it is equal.
    """
    x, inputs = node.inputs[0], rewriter.module.graph.inputs
    own = shape_expressions(x)
    if own is None or x in inputs:
        return None
    start, end = integer_attribute(node, "start", 0), integer_attribute(node, "end", len(own))
    wanted = own[start:end]
    if not wanted or None in wanted:
        return None
    for value in inputs:
        if not isinstance(value.type, ir.TensorType):
            continue  # a sequence has the shape of its elements
        sizes = shape_expressions(value) or ()
        for place in range(len(sizes) - len(wanted) + 1):
            if sizes[place : place + len(wanted)] == wanted:
                bounds = {"start": place, "end": place + len(wanted)}
                build = functools.partial(_shape, x=value, bounds=bounds)
                return Replacement("shape-of-input", [node], build)
    return None


def _shape(builder: GraphBuilder, x: ir.Value, bounds: dict[str, int]) -> ir.Value:
    return builder.op("Shape", [x], bounds)


def _has_input(node: ir.Node, index: int) -> bool:
    return len(node.inputs) > index and node.inputs[index] is not None


def remove_unsqueeze_pair(node: ir.Node, _: Rewriter) -> Replacement | None:
    """``Squeeze(Unsqueeze(x))`` and ``Unsqueeze(Squeeze(x))`` on the same axes are ``x``."""
    opposite = "Unsqueeze" if node.op_type == "Squeeze" else "Squeeze"
    inner = made_by(node.inputs[0], opposite)
    if inner is None or not _has_input(node, 1) or not _has_input(inner, 1):
        return None
    x = inner.inputs[0]
    wide = rank(x) if opposite == "Squeeze" else rank(inner.outputs[0])
    axes = axes_from(node.inputs[1], wide)
    if x is None or axes is None or axes != axes_from(inner.inputs[1], wide):
        return None
    return forward("remove-unsqueeze-pair", x, inner, node)


def merge_unsqueezes(node: ir.Node, _: Rewriter) -> Replacement | None:
    """``Unsqueeze(Unsqueeze(x))`` is one ``Unsqueeze`` by the axes of both."""
    inner = made_by(node.inputs[0], "Unsqueeze")
    if inner is None or not is_op(node, "Unsqueeze"):
        return None
    x, outer_rank, inner_rank = inner.inputs[0], rank(node.outputs[0]), rank(inner.outputs[0])
    outer_axes = axes_from(node.inputs[1], outer_rank)
    inner_axes = axes_from(inner.inputs[1], inner_rank)
    if x is None or outer_rank is None or outer_axes is None or inner_axes is None:
        return None
    kept = [axis for axis in range(outer_rank) if axis not in outer_axes]
    axes = np.array(sorted([*outer_axes, *(kept[axis] for axis in inner_axes)]), dtype=np.int64)
    return Replacement(
        "merge-unsqueezes",
        [inner, node],
        functools.partial(_unsqueeze, x=x, axes=axes),
    )


def remove_reshape(node: ir.Node, rewriter: Rewriter) -> Replacement | None:
    """``Reshape`` to the shape that is there already, and reshaping before a ``Reshape``."""
    x = node.inputs[0]
    own = shape_expressions(x)
    if x is not None and own is not None and own == shape_expressions(node.outputs[0]):
        return forward("remove-reshape", x, node)
    fewer = _unsqueeze_less(node)
    if fewer is not None:
        return fewer
    inner = made_by(x, "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    source = inner.inputs[0] if inner is not None else None
    if inner is None or source is None or not _ignores_input_shape(node, rewriter.shape_data):
        return None
    if x is None or not _only_reshaped(x) or _folds_for_a_swap(node):
        return None  # the inner one stays anyway, or other rules know it
    return Replacement(
        "merge-reshapes",
        [inner, node],
        lambda builder: builder.op("Reshape", [source, node.inputs[1]], node.attributes),
    )


def _only_reshaped(value: ir.Value) -> bool:
    """Whether all that reads the value gives it another shape, or asks for the one it has."""
    readers = [user for user, _ in value.uses()]
    return not value.is_graph_output() and all(is_op(n, "Reshape", "Shape") for n in readers)


def _folds_for_a_swap(node: ir.Node) -> bool:
    """Whether :func:`transpose_through_reshapes` starts from this, and needs the shape before."""
    readers = [user for user, _ in node.outputs[0].uses()]
    return (
        len(readers) == 1 and is_op(readers[0], "Transpose") and permutation(readers[0]) == _SWAPPED
    )


def _unsqueeze_less(node: ir.Node) -> Replacement | None:
    """``Reshape`` that only takes out axes an ``Unsqueeze`` put in: an ``Unsqueeze`` of fewer."""
    inner = made_by(node.inputs[0], "Unsqueeze")
    x = inner.inputs[0] if inner is not None else None
    if inner is None or x is None:
        return None
    wide, result = shape_expressions(inner.outputs[0]), shape_expressions(node.outputs[0])
    axes = axes_from(inner.inputs[1], rank(inner.outputs[0]))
    if wide is None or result is None or axes is None or not len(x.shape or ()) < len(result):
        return None
    for kept in itertools.combinations(axes, len(result) - len(x.shape or ())):
        removed = set(axes) - set(kept)
        if result != tuple(size for axis, size in enumerate(wide) if axis not in removed):
            continue
        left = np.array([axis - sum(r < axis for r in removed) for axis in kept], dtype=np.int64)
        build = functools.partial(_unsqueeze, x=x, axes=left)
        return Replacement("unsqueeze-less", [inner, node], build)
    return None


def _unsqueeze(builder: GraphBuilder, x: ir.Value, axes: npt.NDArray[np.int64]) -> ir.Value:
    return builder.op("Unsqueeze", [x, builder.constant(axes, "axes")])


def _ignores_input_shape(node: ir.Node, data: ShapeData) -> bool:
    """Whether no element of the target shape is 0, which would copy a size of the input."""
    if integer_attribute(node, "allowzero", 0) == 1:
        return True
    target = data.evaluate(node.inputs[1])
    if target is None:
        return False
    return all(size is not None and (size == -1 or bool(size.is_positive)) for size in target)


def flatten_to_reshape(node: ir.Node, _: Rewriter) -> Replacement | None:
    """``Flatten`` as ``Reshape``, where one of the two sizes is known (0 rows stay legal)."""
    x, shape = node.inputs[0], node.outputs[0].shape
    if x is None or shape is None or len(shape) != 2:
        return None
    known = [size if isinstance(size, int) and size > 0 else -1 for size in shape]
    if known == [-1, -1]:
        return None
    target = np.array(known, dtype=np.int64)
    return Replacement(
        "flatten-to-reshape",
        [node],
        lambda builder: builder.op("Reshape", [x, builder.constant(target, "shape")]),
    )


def transpose_through_reshapes(node: ir.Node, rewriter: Rewriter) -> Replacement | None:
    """A swap of the last two axes, done on a tensor whose leading axes are folded into one.

    ``Reshape(x [B,H,S,d] -> [B*H,S,d]) -> Transpose(0,2,1) -> Reshape([B,H,d,S])`` is how
    exporters spell the transposed keys of attention; it is ``Transpose(0,1,3,2)``.
    """
    swap = made_by(node.inputs[0], "Transpose")
    fold = made_by(swap.inputs[0], "Reshape") if swap is not None else None
    if swap is None or fold is None or permutation(swap) != _SWAPPED:
        return None
    x = fold.inputs[0]
    own, folded = shape_expressions(x), shape_expressions(fold.outputs[0])
    result = shape_expressions(node.outputs[0])
    if x is None or own is None or folded is None or result is None or len(own) < 3:
        return None
    if folded != (sympy.Mul(*own[:-2]), *own[-2:]):
        rewriter.miss("transpose-through-reshapes", node, "the first Reshape splits an axis")
        return None
    if result != (*own[:-2], own[-1], own[-2]):
        rewriter.miss("transpose-through-reshapes", node, "the shapes at the two ends differ")
        return None
    axes = list(range(len(own)))
    perm = [*axes[:-2], axes[-1], axes[-2]]
    return Replacement(
        "transpose-through-reshapes",
        [fold, swap, node],
        lambda builder: builder.op("Transpose", [x], {"perm": perm}),
    )
