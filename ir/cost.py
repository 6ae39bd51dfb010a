"""What a graph costs, as formulas in its symbolic sizes: FLOPs, bytes moved, parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import onnx_ir as ir
import sympy

from .dialect import declaration_of
from .module import Module, constant_value
from .symbols import shape_expressions

_DEFAULT_FLOPS_PER_ELEMENT = 1
# A whole operator costs what the chain of primitive operators costs that it stands for.
_FLOPS_PER_ELEMENT = {
    "Erf": 4,
    "Exp": 4,
    "Gelu": 8,
    "RMSNormalization": 4,
    "Softmax": 8,
    "Tanh": 4,
}
_REDUCTIONS = frozenset(["ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"])
_MOVES_ONLY = frozenset(
    [
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "DequantizeLinear",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "NonZero",
        "QuantizeLinear",
        "Range",
        "Reshape",
        "ScatterElements",
        "ScatterND",
        "Shape",
        "Size",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a node or a graph.

    Attributes:
        flops: floating-point operations; a multiply-add counts as two.
        bytes_moved: bytes read and written, each operand once.
    """

    flops: sympy.Expr
    bytes_moved: sympy.Expr

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes_moved + other.bytes_moved)

    def at(self, sizes: Mapping[str, float]) -> tuple[float, float]:
        """FLOPs and bytes at concrete sizes; symbols without a size count as 1."""
        return _number(self.flops, sizes), _number(self.bytes_moved, sizes)


NOTHING = Cost(sympy.Integer(0), sympy.Integer(0))


def _number(expression: sympy.Expr, sizes: Mapping[str, float]) -> float:
    values = {name: sizes.get(name.name, 1) for name in expression.free_symbols}
    return float(expression.subs(values))


def node_cost(node: ir.Node) -> Cost:
    """Cost of one node; values of unknown shape count as nothing."""
    shapes = [shape_expressions(value) for value in node.inputs]
    moved = sympy.Add(*(_bytes(value) for value in (*node.inputs, *node.outputs)))
    declaration = declaration_of(node)
    if declaration is not None:
        try:
            return Cost(declaration.flops(shapes, node.attributes), moved)
        except (ValueError, KeyError):
            return Cost(sympy.Integer(0), moved)
    rule = _FLOPS.get(node.op_type)
    if rule is not None and node.domain == "":
        return Cost(rule(node), moved)
    if node.op_type in _MOVES_ONLY or not _is_floating_point(node):
        return Cost(sympy.Integer(0), moved)
    if node.op_type in _REDUCTIONS:
        return Cost(_elements(node.inputs[0]), moved)
    per_element = _FLOPS_PER_ELEMENT.get(node.op_type, _DEFAULT_FLOPS_PER_ELEMENT)
    return Cost(per_element * _elements(node.outputs[0]) if node.outputs else NOTHING.flops, moved)


def _is_floating_point(node: ir.Node) -> bool:
    """Whether the node does floating-point work: bookkeeping on sizes and masks is none."""
    first = node.inputs[0] if node.inputs else None
    dtypes = [value.dtype for value in (first, *node.outputs[:1]) if value is not None]
    return any(dtype is not None and dtype.is_floating_point() for dtype in dtypes)


def graph_cost(module: Module) -> Cost:
    """Cost of the main graph: the sum over its nodes."""
    costs = [node_cost(node) for node in module.graph]
    return Cost(
        sympy.Add(*(cost.flops for cost in costs)),
        sympy.Add(*(cost.bytes_moved for cost in costs)),
    )


def num_parameters(module: Module) -> int:
    """Number of weight elements, those of subgraphs included."""
    return sum(
        value.const_value.size
        for graph in module.model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def _elements(value: ir.Value | None) -> sympy.Expr:
    dims = shape_expressions(value)
    return sympy.Integer(0) if dims is None else sympy.Mul(*dims)


def _bytes(value: ir.Value | None) -> sympy.Expr:
    if value is None or value.dtype is None or value.dtype is ir.DataType.STRING:
        return sympy.Integer(0)
    constant = constant_value(value)
    if constant is not None:
        return sympy.Integer(constant.nbytes)
    return _elements(value) * sympy.Rational(value.dtype.bitwidth, 8)


def _matmul(node: ir.Node) -> sympy.Expr:
    left = shape_expressions(node.inputs[0])
    return 2 * _elements(node.outputs[0]) * (left[-1] if left else sympy.Integer(0))


def _gemm(node: ir.Node) -> sympy.Expr:
    left = shape_expressions(node.inputs[0])
    if left is None:
        return sympy.Integer(0)
    transposed = "transA" in node.attributes and node.attributes["transA"].as_int()
    return 2 * _elements(node.outputs[0]) * (left[0] if transposed else left[1])


def _layer_normalization(node: ir.Node) -> sympy.Expr:
    """Mean, difference, square, mean, quotient and scale; a seventh for the bias."""
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    return (7 if has_bias else 6) * _elements(node.outputs[0])


def _attention(node: ir.Node) -> sympy.Expr:
    """Scores and context of dense attention: ``2 * B * H * Sq * Sk * (d + dv)``."""
    query, key = shape_expressions(node.inputs[0]), shape_expressions(node.inputs[1])
    value = shape_expressions(node.inputs[2])
    if query is None or key is None or value is None:
        return sympy.Integer(0)
    if len(query) == 3:
        return 2 * query[0] * query[1] * key[1] * 2 * query[2]
    return 2 * query[0] * query[1] * query[2] * key[2] * (query[3] + value[3])


def _einsum(node: ir.Node) -> sympy.Expr:
    """A multiply-add for each combination of labels; of one operand, an addition."""
    inputs = node.attributes["equation"].as_string().replace(" ", "").partition("->")[0]
    terms = inputs.split(",")
    shapes = [shape_expressions(value) for value in node.inputs]
    if any(s is None or len(s) != len(t) for s, t in zip(shapes, terms, strict=True)):
        return sympy.Integer(0)
    sizes = {
        label: size
        for term, shape in zip(terms, shapes, strict=True)
        for label, size in zip(term, shape or (), strict=True)
    }
    return len(terms) * sympy.Mul(*sizes.values())


_FLOPS: dict[str, Callable[[ir.Node], sympy.Expr]] = {
    "MatMul": _matmul,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "Attention": _attention,
    "LayerNormalization": _layer_normalization,
}
