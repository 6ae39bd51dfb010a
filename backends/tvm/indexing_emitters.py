"""Operators that pick, place, count or order elements by index."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from tvm import relax, te, tirx

from .emission import Emission, Expr, LoweringError, attribute
from .scatter_kernels import positions_of_true
from .shape_emitters import constant_input


def emit_gather(emission: Emission, node: ir.Node) -> Expr:
    """``Gather``: an index below zero counts from the end; one out of bounds is held inside."""
    x, indices = emission.tensors(node)
    axis = attribute(node, "axis", 0) % len(emission.shape(x))

    def compute(source: Any, index: Any) -> Any:
        rank = len(index.shape)
        shape = [*source.shape[:axis], *index.shape, *source.shape[axis + 1 :]]

        def element(*place: Any) -> Any:
            picked = _inside(index(*place[axis : axis + rank]), source.shape[axis])
            return source(*place[:axis], picked, *place[axis + rank :])

        return te.compute(shape, element, name="gather")

    return emission.emit_te(compute, x, indices, name="gather")


def _inside(index: Any, size: Any) -> Any:
    """An index counted from the front and held within bounds, whatever its value."""
    wide = index.astype("int64")
    counted = tirx.Select(wide < 0, wide + size, wide)
    return tirx.max(tirx.IntImm("int64", 0), tirx.min(counted, size - 1))


def emit_gather_elements(emission: Emission, node: ir.Node) -> Expr:
    """``GatherElements``."""
    x, indices = emission.tensors(node)
    axis = attribute(node, "axis", 0) % len(emission.shape(x))

    def compute(source: Any, index: Any) -> Any:
        def element(*place: Any) -> Any:
            picked = _inside(index(*place), source.shape[axis])
            return source(*place[:axis], picked, *place[axis + 1 :])

        return te.compute(index.shape, element, name="gather_elements")

    return emission.emit_te(compute, x, indices, name="gather_elements")


def emit_gather_nd(emission: Emission, node: ir.Node) -> Expr:
    """``GatherND``: the last axis of the indices addresses one slice."""
    x, indices = emission.tensors(node)
    batch = attribute(node, "batch_dims", 0)
    depth = emission.shape(indices)[-1]
    if not isinstance(depth, tirx.IntImm):
        raise LoweringError("how many axes its indices address is not known")
    count = int(depth)

    def compute(source: Any, index: Any) -> Any:
        lead = len(index.shape) - 1
        shape = [*index.shape[:-1], *source.shape[batch + count :]]

        def element(*place: Any) -> Any:
            head, tail = place[:lead], place[lead:]
            picked = [_inside(index(*head, i), source.shape[batch + i]) for i in range(count)]
            return source(*head[:batch], *picked, *tail)

        return te.compute(shape, element, name="gather_nd")

    return emission.emit_te(compute, x, indices, name="gather_nd")


def emit_scatter_nd(emission: Emission, node: ir.Node) -> Expr:
    """``ScatterND``."""
    x, indices, updates = emission.tensors(node)
    shape, leading = emission.shape(x), emission.shape(indices)[:-1]
    depth = int(emission.shape(indices)[-1])
    # TVM finds computed sizes, such as 4 * batch, equal only if they are one variable.
    tail = [
        size if isinstance(size, tirx.IntImm | tirx.Var) else emission.sizes.new_variable()
        for size in shape[depth:]
    ]
    x = emission.match(x, [*shape[:depth], *tail])
    updates = emission.match(updates, [*leading, *tail])
    result = emission.emit(relax.op.scatter_nd(x, indices, updates, _reduction(node)))
    return emission.match(result, shape)


def emit_scatter_elements(emission: Emission, node: ir.Node) -> Expr:
    """``ScatterElements``; an index below zero counts from the end."""
    x, indices, updates = emission.tensors(node)
    axis = attribute(node, "axis", 0) % len(emission.shape(x))
    size = emission.shape(x)[axis]

    def counted(index: Any) -> Any:
        return te.compute(
            index.shape, lambda *place: _inside(index(*place), size), name="counted_index"
        )

    places = emission.emit_te(counted, indices, name="counted_index")
    return relax.op.scatter_elements(x, places, updates, axis, _reduction(node))


def _reduction(node: ir.Node) -> str:
    """TVM's name of what a scatter does where an element is given already."""
    name: str = attribute(node, "reduction", "none")
    return "update" if name == "none" else name


def emit_non_zero(emission: Emission, node: ir.Node) -> Expr:
    """``NonZero`` of a vector: how many there are is read back before they are written."""
    x = emission.tensor(node.inputs[0])
    if len(emission.shape(x)) != 1:
        raise LoweringError("only the non-zero elements of a vector are found")
    found, _ = positions_of_true(emission, emission.emit(relax.op.astype(x, "bool")))
    return relax.op.expand_dims(found, 0)


def emit_cum_sum(emission: Emission, node: ir.Node) -> Expr:
    """``CumSum`` along a constant axis, from either end."""
    x = emission.tensor(node.inputs[0])
    axis = int(constant_input(emission, node, 1, "axis").reshape(()))
    exclusive, backward = attribute(node, "exclusive", 0), attribute(node, "reverse", 0)
    if backward:
        x = emission.emit(relax.op.flip(x, axis))
    result = emission.emit(relax.op.cumsum(x, axis, emission.dtype(x), bool(exclusive)))
    return relax.op.flip(result, axis) if backward else result


def emit_arg_max(emission: Emission, node: ir.Node) -> Expr:
    """``ArgMax``: the first of equals."""
    return _arg(emission, node, relax.op.argmax)


def emit_arg_min(emission: Emission, node: ir.Node) -> Expr:
    """``ArgMin``: the first of equals."""
    return _arg(emission, node, relax.op.argmin)


def _arg(emission: Emission, node: ir.Node, function: Any) -> Expr:
    if attribute(node, "select_last_index", 0):
        raise LoweringError("only the first of equal elements is found")
    x = emission.tensor(node.inputs[0])
    return function(x, attribute(node, "axis", 0), bool(attribute(node, "keepdims", 1)))


def emit_top_k(emission: Emission, node: ir.Node) -> list[Expr]:
    """``TopK`` for a constant number."""
    x, count = emission.tensor(node.inputs[0]), constant_input(emission, node, 1, "k")
    largest = bool(attribute(node, "largest", 1))
    both = emission.emit(
        relax.op.topk(
            x, int(count.reshape(())), attribute(node, "axis", -1), "both", largest, "int64"
        )
    )
    return [emission.emit(relax.TupleGetItem(both, index)) for index in range(2)]
