"""Operators that change sizes, order or repetition of elements, and that make new tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from .emission import Emission, Expr, LoweringError, attribute, dtype_text


def emit_reshape(emission: Emission, node: ir.Node) -> Expr:
    """``Reshape`` and ``Flatten``: the target as the IR knows it; one size may be left to TVM."""
    x = emission.tensor(node.inputs[0])
    shape = emission.output_shape(node)
    new = [axis for axis, size in enumerate(shape) if not emission.is_bound(size)]
    if not new:
        return relax.op.reshape(x, shape)
    target = emission.data.evaluate(node.inputs[1]) if node.op_type == "Reshape" else None
    if target is not None and len(new) == 1 and target[new[0]] == -1:
        return relax.op.reshape(x, [-1 if axis in new else s for axis, s in enumerate(shape)])
    if node.op_type != "Reshape":
        raise LoweringError("the sizes of the result are not known")
    return relax.op.reshape(x, emission.size_list(node.inputs[1]))


def emit_transpose(emission: Emission, node: ir.Node) -> Expr:
    """``Transpose``; of a constant, before the build."""
    x, array = node.inputs[0], emission.array(node.inputs[0])
    rank = len(x.shape) if x is not None and x.shape is not None else None
    default = None if rank is None else list(range(rank))[::-1]
    perm = attribute(node, "perm", default)
    if array is not None:
        emission.set_array(node.outputs[0], np.ascontiguousarray(array.transpose(perm)))
        return emission.tensor(node.outputs[0])
    return relax.op.permute_dims(emission.tensor(x), list(perm))


def emit_unsqueeze(emission: Emission, node: ir.Node) -> Expr:
    """``Unsqueeze``."""
    return relax.op.expand_dims(emission.tensor(node.inputs[0]), axes_of(emission, node) or [])


def emit_squeeze(emission: Emission, node: ir.Node) -> Expr:
    """``Squeeze``: the axes named, or all of size 1."""
    return relax.op.squeeze(emission.tensor(node.inputs[0]), axes_of(emission, node))


def axes_of(emission: Emission, node: ir.Node) -> list[int] | None:
    """Axes given as second input or as attribute; None if not given.

    Raises:
        LoweringError: they are computed at run time.
    """
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return [int(axis) for axis in constant_input(emission, node, 1, "axes").reshape(-1)]
    given = attribute(node, "axes", None)
    return None if given is None else list(given)


def constant_input(emission: Emission, node: ir.Node, index: int, role: str) -> Any:
    """The elements of an input that must be known before run time.

    Raises:
        LoweringError: they are not.
    """
    value = node.inputs[index]
    array = emission.array(value)
    if array is None and value is not None:
        elements = emission.data.evaluate(value)
        if elements is not None and all(e is not None and e.is_Integer for e in elements):
            array = np.array([int(item) for item in elements if item is not None])
    if array is None:
        raise LoweringError(f"its {role} are computed at run time")
    return array


def emit_concat(emission: Emission, node: ir.Node) -> Expr:
    """``Concat``: sizes of the other axes must agree."""
    parts = emission.tensors(node)
    axis = attribute(node, "axis", 0) % len(emission.shape(parts[0]))
    first = emission.shape(parts[0])
    matched = [
        emission.match(
            part, [own if at == axis else first[at] for at, own in enumerate(emission.shape(part))]
        )
        for part in parts
    ]
    return relax.op.concat(matched, axis)


def emit_split(emission: Emission, node: ir.Node) -> list[Expr]:
    """``Split``: by given sizes, or in equal parts."""
    x, count = emission.tensor(node.inputs[0]), len(node.outputs)
    axis = attribute(node, "axis", 0) % len(emission.shape(x))
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = [int(s) for s in constant_input(emission, node, 1, "sizes").reshape(-1)]
    else:
        size = emission.shape(x)[axis]
        if not isinstance(size, tirx.IntImm):
            raise LoweringError("an axis of unknown size is split in equal parts")
        part = -(-int(size) // count)
        sizes = [part] * (count - 1) + [int(size) - part * (count - 1)]
    ends = [int(end) for end in np.cumsum(sizes)][:-1]
    if not ends:
        return [x]
    parts = emission.emit(relax.op.split(x, ends, axis))
    return [emission.emit(relax.TupleGetItem(parts, index)) for index in range(count)]


def emit_expand(emission: Emission, node: ir.Node) -> Expr:
    """``Expand``: both shapes broadcast against each other."""
    x = emission.tensor(node.inputs[0])
    shape = emission.output_shape(node)
    if not all(emission.is_bound(size) for size in shape):
        asked, own = emission.size_list(node.inputs[1]), emission.shape(x)
        rank = max(len(asked), len(own))
        own = [tirx.IntImm("int64", 1)] * (rank - len(own)) + own
        asked = [tirx.IntImm("int64", 1)] * (rank - len(asked)) + asked
        shape = [a if _is_literal_one(o) else o for o, a in zip(own, asked, strict=True)]
    own = emission.shape(x)
    offset = len(shape) - len(own)
    matched = [s if _is_literal_one(s) else shape[offset + i] for i, s in enumerate(own)]
    return relax.op.broadcast_to(emission.match(x, matched), shape)


def _is_literal_one(size: Any) -> bool:
    return isinstance(size, tirx.IntImm) and int(size) == 1


def emit_tile(emission: Emission, node: ir.Node) -> Expr:
    """``Tile``: repetitions are sizes."""
    x, repeats = emission.tensor(node.inputs[0]), emission.size_list(node.inputs[1])
    own = emission.shape(x)
    shape = [emission.sizes.simplify(a * b) for a, b in zip(own, repeats, strict=True)]

    def compute(source: Any, shape: Any) -> Any:
        def element(*index: Any) -> Any:
            places = [tirx.truncmod(i, s) for i, s in zip(index, source.shape, strict=True)]
            return source(*places)

        return te.compute(shape, element, name="tile")

    return emission.emit_te(compute, x, shape, name="tile")


def emit_range(emission: Emission, node: ir.Node) -> Expr:
    """``Range`` between sizes or constants."""
    start, limit, step = (_scalar(emission, value) for value in node.inputs)
    dtype = dtype_text(node.outputs[0].dtype or ir.DataType.INT64)
    if not any(isinstance(item, tirx.Expr) for item in (start, limit, step)):
        return emission.constant(np.arange(start, limit, step).astype(dtype))
    if not isinstance(step, int):
        raise LoweringError("its step is computed at run time")
    count = emission.sizes.simplify(_steps_between(start, limit, step))
    known = emission.output_shape(node)
    if emission.is_bound(known[0]):
        count = known[0]

    def compute(first: Any, count: Any) -> Any:
        return te.compute((count,), lambda i: (first + i * step).astype(dtype), name="range")

    return emission.emit_te(compute, start, count, name="range")


def _scalar(emission: Emission, value: ir.Value | None) -> Any:
    """A number, or a size."""
    array = emission.array(value)
    if array is not None:
        number = array.reshape(()).item()
        return number if isinstance(number, float) else int(number)
    return emission.size_list(value)[0]


def emit_constant_of_shape(emission: Emission, node: ir.Node) -> Expr:
    """``ConstantOfShape``."""
    fill = attribute(node, "value", None)
    number = np.zeros((), np.float32) if fill is None else fill.numpy().reshape(())
    return relax.op.full(
        emission.size_list(node.inputs[0]), emission.constant(number), str(number.dtype)
    )


def emit_pad(emission: Emission, node: ir.Node) -> Expr:
    """``Pad`` with a constant."""
    if attribute(node, "mode", "constant") != "constant":
        raise LoweringError("only padding with a constant is lowered")
    x = emission.tensor(node.inputs[0])
    own, rank = emission.shape(x), len(emission.shape(x))
    pads = emission.size_list(node.inputs[1])
    axes = list(range(rank))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = [int(a) % rank for a in constant_input(emission, node, 3, "axes").reshape(-1)]
    before, after = [tirx.IntImm("int64", 0)] * rank, [tirx.IntImm("int64", 0)] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[len(axes) + place]
    number = emission.array(node.inputs[2]) if len(node.inputs) > 2 else None
    fill = 0 if number is None else number.reshape(()).item()
    shape = [emission.sizes.simplify(b + s + a) for b, s, a in zip(before, own, after, strict=True)]

    def compute(source: Any, starts: Any, shape: Any) -> Any:
        def element(*index: Any) -> Any:
            places = [i - b for i, b in zip(index, starts, strict=True)]
            inside = [tirx.all(p >= 0, p < s) for p, s in zip(places, source.shape, strict=True)]
            value = tirx.const(fill, source.dtype)
            return tirx.if_then_else(tirx.all(*inside), source(*places), value)

        return te.compute(shape, element, name="pad")

    return emission.emit_te(compute, x, before, shape, name="pad")


def emit_slice(emission: Emission, node: ir.Node) -> Expr:
    """``Slice``: bounds are sizes or constants, steps are constants."""
    x = emission.tensor(node.inputs[0])
    own, rank = emission.shape(x), len(emission.shape(x))
    starts, ends = emission.size_list(node.inputs[1]), emission.size_list(node.inputs[2])
    axes, steps = list(range(len(starts))), [1] * len(starts)
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = [int(a) % rank for a in constant_input(emission, node, 3, "axes").reshape(-1)]
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        steps = [int(s) for s in constant_input(emission, node, 4, "steps").reshape(-1)]
    first, step, shape = [tirx.IntImm("int64", 0)] * rank, [1] * rank, list(own)
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        first[axis], step[axis] = _clamped(start, own[axis], stride, is_end=False), stride
        last = _clamped(end, own[axis], stride, is_end=True)
        shape[axis] = emission.sizes.simplify(_steps_between(first[axis], last, stride))
        first[axis] = emission.sizes.simplify(first[axis])
    known = emission.output_shape(node)
    shape = [k if emission.is_bound(k) else s for k, s in zip(known, shape, strict=True)]

    def compute(source: Any, begins: Any, shape: Any) -> Any:
        def element(*index: Any) -> Any:
            return source(*(b + i * s for b, i, s in zip(begins, index, step, strict=True)))

        return te.compute(shape, element, name="slice")

    return emission.emit_te(compute, x, first, shape, name="slice")


def _steps_between(start: Any, end: Any, step: int) -> Any:
    """How many steps lead from the start to before the end: none if they lead away from it."""
    distance = end - start if step > 0 else start - end
    stride = tirx.IntImm("int64", abs(step))
    return tirx.max(tirx.floordiv(distance + (stride - 1), stride), tirx.IntImm("int64", 0))


def _clamped(bound: Any, size: Any, step: int, *, is_end: bool) -> Any:
    """A bound counted from the front, as ONNX clamps it."""
    lowest, highest = (0, size) if step > 0 else (-1 if is_end else 0, size - 1)
    if isinstance(bound, tirx.IntImm) and isinstance(size, tirx.IntImm):
        number, length = int(bound), int(size)
        number = number + length if number < 0 else number
        return tirx.IntImm("int64", max(int(lowest), min(number, int(highest))))
    if isinstance(bound, tirx.IntImm):
        number = int(bound)
        if number == 0 and step > 0:
            return bound
        if number >= 2**31 and step > 0:
            return size
        bound = size + bound if number < 0 else bound
    return tirx.max(lowest, tirx.min(bound, highest))


def emit_trilu(emission: Emission, node: ir.Node) -> Expr:
    """``Trilu``."""
    offset = 0
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        offset = int(constant_input(emission, node, 1, "offset").reshape(()))
    function = relax.op.triu if attribute(node, "upper", 1) else relax.op.tril
    return function(emission.tensor(node.inputs[0]), offset)
