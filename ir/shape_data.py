"""Integer tensors that hold sizes, evaluated as expressions.

Exporters compute target shapes at run time (``Shape``, ``Gather``, ``Concat``, ...). Following
those few operators symbolically tells what a ``Reshape`` or ``Expand`` really does.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import sympy

from .module import constant_value
from .symbols import to_expression

SizeVector = tuple[sympy.Expr | None, ...]
"""Elements of a 1-D integer tensor (or the one element of a scalar); None where not known."""

_MAX_ELEMENTS = 64
_INTEGER_TYPES = (ir.DataType.INT64, ir.DataType.INT32)


class ShapeData:
    """Evaluates size vectors, remembering each value once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, SizeVector | None] = {}

    def evaluate(self, value: ir.Value | None) -> SizeVector | None:
        """The elements of ``value`` as expressions, or None if nothing is known of them."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = None  # a cycle cannot be, but recursion must end on broken graphs
            self._known[value] = self._compute(value)
        return self._known[value]

    def _compute(self, value: ir.Value) -> SizeVector | None:
        constant = constant_value(value)
        if constant is not None:
            return _from_constant(constant)
        node = value.producer()
        if node is None or node.domain != "":
            return None
        rule = _RULES.get(node.op_type)
        return rule(self, node) if rule and _is_vector(value) else None


def _is_vector(value: ir.Value) -> bool:
    """Whether the elements have one order; those of a matrix lose theirs when concatenated."""
    return value.shape is not None and sum(size != 1 for size in value.shape) <= 1


def _from_constant(tensor: ir.TensorProtocol) -> SizeVector | None:
    if tensor.dtype not in _INTEGER_TYPES or len(tensor.shape) > 1 or tensor.size > _MAX_ELEMENTS:
        return None
    return tuple(sympy.Integer(int(item)) for item in tensor.numpy().reshape(-1))


def _shape(data: ShapeData, node: ir.Node) -> SizeVector | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else len(source.shape)
    return tuple(to_expression(dim) for dim in list(source.shape)[start:end])


def _size(data: ShapeData, node: ir.Node) -> SizeVector | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    sizes = [to_expression(dim) for dim in source.shape]
    return (None if any(size is None for size in sizes) else sympy.Mul(*sizes),)


def _same(data: ShapeData, node: ir.Node) -> SizeVector | None:
    return data.evaluate(node.inputs[0])


def _cast(data: ShapeData, node: ir.Node) -> SizeVector | None:
    """Between integers the sizes stay; a bool or a float in between would not keep them."""
    source = node.inputs[0]
    if source is None or source.dtype not in (*_INTEGER_TYPES, ir.DataType.BOOL):
        return None
    if node.attributes["to"].as_int() not in _INTEGER_TYPES:
        return None
    return data.evaluate(source)


def _concat(data: ShapeData, node: ir.Node) -> SizeVector | None:
    elements: list[sympy.Expr | None] = []
    for item in node.inputs:
        part = data.evaluate(item)
        if part is None:
            width = _static_length(item)
            if width is None:
                return None
            part = (None,) * width
        elements += part
    return tuple(elements)


def _static_length(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None or len(value.shape) != 1:
        return None
    size = value.shape[0]
    return size if isinstance(size, int) else None


def _gather(data: ShapeData, node: ir.Node) -> SizeVector | None:
    source, indices = data.evaluate(node.inputs[0]), data.evaluate(node.inputs[1])
    if source is None or indices is None:
        return None
    picked = [_integer(index) for index in indices]
    if any(i is None or not -len(source) <= i < len(source) for i in picked):
        return None
    return tuple(source[i] for i in picked if i is not None)


def _integer(size: sympy.Expr | None) -> int | None:
    return int(size) if size is not None and size.is_Integer else None


def _slice(data: ShapeData, node: ir.Node) -> SizeVector | None:
    source = data.evaluate(node.inputs[0])
    start, end = (_only_integer(data.evaluate(item)) for item in node.inputs[1:3])
    step = _only_integer(data.evaluate(node.inputs[4])) if len(node.inputs) > 4 else 1
    if source is None or start is None or end is None or step is None:
        return None
    return source[start:end:step]


def _only_integer(vector: SizeVector | None) -> int | None:
    return _integer(vector[0]) if vector is not None and len(vector) == 1 else None


def _elementwise(
    combine: Callable[[sympy.Expr, sympy.Expr], sympy.Expr | None],
) -> Callable[[ShapeData, ir.Node], SizeVector | None]:
    def rule(data: ShapeData, node: ir.Node) -> SizeVector | None:
        if len(node.inputs) != 2:
            return None  # Max and Min take any number
        left, right = data.evaluate(node.inputs[0]), data.evaluate(node.inputs[1])
        if left is None or right is None:
            return None
        width = max(len(left), len(right))
        if len(left) not in (1, width) or len(right) not in (1, width):
            return None
        left = left * width if len(left) == 1 else left
        right = right * width if len(right) == 1 else right
        return tuple(
            None if a is None or b is None else combine(a, b)
            for a, b in zip(left, right, strict=True)
        )

    return rule


def _divide(left: sympy.Expr, right: sympy.Expr) -> sympy.Expr | None:
    """ONNX rounds towards zero: the floor only of what is not negative."""
    if left.is_nonnegative and right.is_positive:
        return sympy.floor(left / right)
    return None


def _equal(left: sympy.Expr, right: sympy.Expr) -> sympy.Expr | None:
    """1 or 0 where it is certain, by sign or by being the same expression."""
    difference = sympy.simplify(left - right)
    if difference.is_zero:
        return sympy.Integer(1)
    return sympy.Integer(0) if difference.is_nonzero else None


def _where(data: ShapeData, node: ir.Node) -> SizeVector | None:
    parts = [data.evaluate(item) for item in node.inputs]
    if any(part is None for part in parts):
        return None
    width = max(len(part) for part in parts if part)
    condition, yes, no = (
        part * width if part is not None and len(part) == 1 else part or () for part in parts
    )
    if not len(condition) == len(yes) == len(no) == width:
        return None
    return tuple(
        None if c is None or not c.is_Integer else (y if int(c) else n)
        for c, y, n in zip(condition, yes, no, strict=True)
    )


def _reduce_prod(data: ShapeData, node: ir.Node) -> SizeVector | None:
    source = data.evaluate(node.inputs[0])
    if source is None or any(size is None for size in source):
        return None
    return (sympy.Mul(*source),)


def _constant_of_shape(data: ShapeData, node: ir.Node) -> SizeVector | None:
    width = data.evaluate(node.inputs[0])
    if width is None or len(width) != 1 or width[0] is None or not width[0].is_Integer:
        return None
    if int(width[0]) > _MAX_ELEMENTS or "value" not in node.attributes:
        return None
    fill = node.attributes["value"].as_tensor()
    if fill.dtype not in _INTEGER_TYPES:
        return None
    return (sympy.Integer(int(fill.numpy().reshape(-1)[0])),) * int(width[0])


_RULES: dict[str, Callable[[ShapeData, ir.Node], SizeVector | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _cast,
    "Unsqueeze": _same,
    "Squeeze": _same,
    "Reshape": _same,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_divide),
    "Max": _elementwise(lambda a, b: sympy.Max(a, b)),
    "Min": _elementwise(lambda a, b: sympy.Min(a, b)),
    "Equal": _elementwise(_equal),
    "Where": _where,
    "ReduceProd": _reduce_prod,
    "ConstantOfShape": _constant_of_shape,
}
