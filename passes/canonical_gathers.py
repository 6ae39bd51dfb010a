"""Rules of ``canonicalize`` for gathers by a grid that counts: they only place a slice."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import sympy

from dechaff.ir import constant_value, shape_expressions, to_shape

from .matching import integer_attribute, made_by, rank, scalar
from .replacement import Replacement
from .rewriter import GraphBuilder, Rewriter


@dataclasses.dataclass(frozen=True)
class _Counter:
    """Indices that count 0, 1, 2, ... along one axis of a grid, and are the same along the rest.

    Attributes:
        axis: the axis of the grid.
        length: how far they count.
        node: the ``Range`` that counts.
    """

    axis: int
    length: sympy.Expr
    node: ir.Node


def gather_nd_of_ranges(node: ir.Node, rewriter: Rewriter) -> Replacement | None:
    """``GatherND`` by a full grid of indices: ``data[b, s]`` for each ``b`` and ``s`` in order.

    Exporters spell broadcasting a mask ``[B,S]`` to ``[B,1,1,S]`` in this way. It is a ``Slice`` of
    as many rows and columns as the grid has, and an ``Unsqueeze``.
    """
    rule = "gather-nd-of-ranges"
    data, indices = node.inputs[:2]
    grid = made_by(indices, "Concat")
    if data is None or indices is None or grid is None or rank(data) != len(grid.inputs):
        return None
    if integer_attribute(node, "batch_dims", 0) != 0:
        return None
    grid_shape = shape_expressions(indices)
    axis = integer_attribute(grid, "axis", 0)
    if grid_shape is None or axis not in (-1, len(grid_shape) - 1):
        return None
    columns = [_column_counter(column, len(grid_shape) - 1) for column in grid.inputs]
    counters = [column for column in columns if column is not None]
    if len(counters) != len(columns):
        rewriter.miss(rule, node, "an index is not Range(0, n, 1) along one axis")
        return None
    problem = _grid_problem(counters, grid_shape[:-1])
    if problem is not None:
        rewriter.miss(rule, node, problem)
        return None
    return Replacement(
        rule,
        [grid, node],
        lambda builder: _placed_slice(builder, data, counters, len(grid_shape) - 1),
    )


def gather_nd_of_constants(node: ir.Node, _: Rewriter) -> Replacement | None:
    """``GatherND`` by constant places of the first axis ``[n, 1]``: a ``Gather`` of ``[n]``."""
    data, indices = node.inputs[:2]
    places = constant_value(indices)
    if data is None or places is None or integer_attribute(node, "batch_dims", 0) != 0:
        return None
    if len(places.shape) != 2 or places.shape[1] != 1:
        return None
    flat = places.numpy().reshape(-1)
    return Replacement(
        "gather-nd-of-constants",
        [node],
        lambda builder: builder.op("Gather", [data, builder.constant(flat, "places")], {"axis": 0}),
    )


def gather_of_flat_ranges(node: ir.Node, rewriter: Rewriter) -> Replacement | None:
    """``Gather`` from flattened data by ``b * S + s``: the older spelling of the same broadcast."""
    rule = "gather-of-flat-ranges"
    flatten, index = made_by(node.inputs[0], "Reshape"), made_by(node.inputs[1], "Add")
    if flatten is None or index is None or integer_attribute(node, "axis", 0) != 0:
        return None
    data, grid_shape = flatten.inputs[0], shape_expressions(index.outputs[0])
    own, flat = shape_expressions(data), shape_expressions(flatten.outputs[0])
    if data is None or grid_shape is None or own is None or flat is None or len(own) != 2:
        return None
    tail = flat[1:]
    if flat[0] != own[0] * own[1] or any(size != 1 for size in tail):
        return None
    counters = _flat_counters(index, own[1], len(grid_shape), rewriter)
    if counters is None:
        rewriter.miss(rule, node, "its index is not row * width + column over whole rows")
        return None
    problem = _grid_problem(counters, grid_shape)
    if problem is not None:
        rewriter.miss(rule, node, problem)
        return None
    return Replacement(
        rule,
        [flatten, index, node],
        lambda builder: _placed_slice(builder, data, counters, len(grid_shape) + len(tail)),
    )


def _flat_counters(
    index: ir.Node, width: sympy.Expr, grid_rank: int, rewriter: Rewriter
) -> list[_Counter] | None:
    """The row and column counters of ``row * width + column``, or None."""
    for product, column in (index.inputs[:2], index.inputs[1::-1]):
        scaled, columns = made_by(product, "Mul"), _counter(column, grid_rank)
        if scaled is None or columns is None or columns.length != width:
            continue
        for row, factor in (scaled.inputs[:2], scaled.inputs[1::-1]):
            rows, size = _counter(row, grid_rank), rewriter.shape_data.evaluate(factor)
            if rows is not None and size == (width,):
                return [rows, columns]
    return None


def _grid_problem(counters: list[_Counter], grid_shape: tuple[sympy.Expr, ...]) -> str | None:
    """Why the indices are not each pair once, in order; None if they are."""
    axes = [counter.axis for counter in counters]
    if axes != sorted(set(axes)):
        return "the ranges do not lie along different axes in order"
    expected = [sympy.Integer(1)] * len(grid_shape)
    for counter in counters:
        expected[counter.axis] = counter.length
    if tuple(expected) != grid_shape:
        return "the grid of indices repeats itself along another axis"
    return None


def _column_counter(column: ir.Value | None, grid_rank: int) -> _Counter | None:
    """The counter behind a grid with a last axis of 1 appended, as ``GatherND`` wants it."""
    tail = made_by(column, "Unsqueeze", "Reshape")
    if tail is None:
        return None
    before, after = (shape_expressions(value) for value in (tail.inputs[0], tail.outputs[0]))
    if before is None or len(before) != grid_rank or after != (*before, 1):
        return None
    return _counter(tail.inputs[0], grid_rank)


def _counter(value: ir.Value | None, grid_rank: int) -> _Counter | None:
    expand = made_by(value, "Expand")
    if expand is not None:
        value = expand.inputs[0]
    shape = shape_expressions(value)
    if value is None or shape is None or len(shape) > grid_rank:
        return None
    source = value
    while (step := made_by(source, "Unsqueeze", "Reshape", "Identity")) is not None:
        if step.inputs[0] is None:
            return None
        source = step.inputs[0]
    node = made_by(source, "Range")
    if node is None or scalar(node.inputs[0]) != 0 or scalar(node.inputs[2]) != 1:
        return None
    length = shape_expressions(node.outputs[0])
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    if length is None or len(wide) != 1 or shape[wide[0]] != length[0]:
        return None
    return _Counter(wide[0] + grid_rank - len(shape), length[0], node)


def _placed_slice(
    builder: GraphBuilder, data: ir.Value, counters: list[_Counter], result_rank: int
) -> ir.Value:
    """The leading part of ``data`` that the counters reach, with axes of 1 between."""
    taken = _leading_part(builder, data, counters)
    taken.shape = to_shape([counter.length for counter in counters])
    axes = [counter.axis for counter in counters]
    others = [axis for axis in range(result_rank) if axis not in axes]
    if not others:
        return taken
    return builder.op(
        "Unsqueeze", [taken, builder.constant(np.array(others, dtype=np.int64), "axes")]
    )


def _leading_part(builder: GraphBuilder, data: ir.Value, counters: list[_Counter]) -> ir.Value:
    """``data[:n_0, :n_1, ...]``, or ``data`` where the sizes are known to be the same."""
    sizes = shape_expressions(data)
    axes = [
        axis
        for axis, counter in enumerate(counters)
        if sizes is None or sizes[axis] != counter.length
    ]
    if not axes:
        return data
    flat = builder.constant(np.array([-1], dtype=np.int64), "flat")
    ends = [builder.op("Reshape", [counters[axis].node.inputs[1], flat]) for axis in axes]
    end = ends[0] if len(ends) == 1 else builder.op("Concat", ends, {"axis": 0})
    starts = builder.constant(np.zeros(len(axes), dtype=np.int64), "starts")
    along = builder.constant(np.array(axes, dtype=np.int64), "axes")
    return builder.op("Slice", [data, starts, end, along])
