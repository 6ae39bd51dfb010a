"""Symbolic sizes on the way to TVM: every size gets a name, and expressions become TVM's."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import sympy
import tvm
from tvm import tirx

from dechaff.ir import DOMAIN, Dim, Module, ShapeData, infer_node, to_expression

PrimExpr = Any
"""A scalar expression of TVM; its packages carry no types."""


def name_sizes(module: Module) -> ShapeData:
    """Infer all shapes anew, with a name for every size, and give what is known of size vectors.

    The IR calls the packed tokens of every ``TokenLayout`` ``T``, although two masks keep
    different numbers of tokens. Here each layout has a name of its own, and so has every size that
    is known at run time only; names that two values share are equal sizes.
    """
    namer = _Namer(module)
    for value in module.graph.inputs:
        value.shape = None if value.shape is None else namer.complete(value.shape, None)
    for node in module.graph:
        namer.visit(node)
    return namer.data


class _Namer:
    def __init__(self, module: Module) -> None:
        self.data = ShapeData()
        self._opset = module.opset
        self._count = 0
        self._trusted = {
            name
            for value in module.graph.inputs
            for dim in value.shape or ()
            for name in _names(dim)
        }

    def visit(self, node: ir.Node) -> None:
        known = [output.shape for output in node.outputs]
        for output in node.outputs:
            output.shape = None
        if node.domain == DOMAIN and node.op_type == "TokenLayout":
            node.outputs[0].shape = ir.Shape([self._new_name("tokens")])
        infer_node(node, self.data, self._opset)
        for output, old in zip(node.outputs, known, strict=True):
            shape = output.shape if output.shape is not None else old
            output.shape = None if shape is None else self.complete(shape, old)

    def complete(self, shape: ir.Shape, old: ir.Shape | None) -> ir.Shape:
        same_rank = old is not None and len(old) == len(shape)
        return ir.Shape(
            [
                self._named(dim, old[axis] if same_rank and old is not None else None)
                for axis, dim in enumerate(shape)
            ]
        )

    def _named(self, dim: Dim, old: Dim | None) -> Dim:
        for candidate in (dim, old):
            if candidate is None or to_expression(candidate) is None:
                continue
            # A name that no input carries was given by an exporter, or is the IR's one T.
            if candidate is dim or _names(candidate) <= self._trusted:
                return candidate
        return self._new_name("size")

    def _new_name(self, stem: str) -> ir.SymbolicDim:
        self._count += 1
        name = f"{stem}_{self._count}"
        return ir.SymbolicDim(name)


def _names(dim: Dim) -> set[str]:
    expression = to_expression(dim)
    return set() if expression is None else {item.name for item in expression.free_symbols}


class SizeTable:
    """TVM's variables and expressions for the sizes of one function."""

    def __init__(self) -> None:
        self._variables: dict[str, PrimExpr] = {}
        self._analyzer = tvm.sym.Analyzer()

    def variable(self, name: str) -> PrimExpr:
        """The variable of a named size."""
        if name not in self._variables:
            self._variables[name] = tirx.Var(name, "int64")
        return self._variables[name]

    def new_variable(self) -> PrimExpr:
        """A variable that nothing else uses; a match binds it."""
        return self.variable(f"found_{len(self._variables)}")

    def size(self, expression: sympy.Expr) -> PrimExpr:
        """An expression over named sizes.

        Raises:
            ValueError: it has a function that sizes do not have.
        """
        if expression.is_Integer:
            return tirx.IntImm("int64", int(expression))
        if expression.is_Symbol:
            return self.variable(expression.name)
        numerator, denominator = sympy.fraction(sympy.together(expression))
        if denominator != 1:
            return tirx.floordiv(self.size(numerator), self.size(denominator))
        return self._compound(expression)

    def _compound(self, expression: sympy.Expr) -> PrimExpr:
        parts = [self.size(part) for part in expression.args]
        if expression.is_Add:
            return _fold(parts, lambda a, b: a + b)
        if expression.is_Mul:
            return _fold(parts, lambda a, b: a * b)
        if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
            return _fold([parts[0]] * int(expression.exp), lambda a, b: a * b)
        if isinstance(expression, sympy.floor):
            return parts[0]  # of a quotient, which is a floor division already
        if isinstance(expression, sympy.Max):
            return _fold(parts, tirx.max)
        if isinstance(expression, sympy.Min):
            return _fold(parts, tirx.min)
        if isinstance(expression, sympy.Mod):
            return tirx.floormod(*parts)
        raise ValueError(f"a size {expression} cannot be written for TVM")

    def shape(self, shape: ir.Shape) -> list[PrimExpr]:
        """All sizes of a shape; every one must have a name."""
        expressions = [to_expression(dim) for dim in shape]
        return [self.size(item) for item in expressions if item is not None]

    def equal(self, left: PrimExpr, right: PrimExpr) -> bool:
        """Whether two sizes are certainly the same."""
        return bool(self._analyzer.can_prove_equal(left, right))

    def simplify(self, expression: PrimExpr) -> PrimExpr:
        """The expression in a shorter form."""
        return self._analyzer.simplify(expression)


def _fold(parts: list[PrimExpr], combine: Any) -> PrimExpr:
    result = parts[0]
    for part in parts[1:]:
        result = combine(result, part)
    return result
