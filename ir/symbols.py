"""Symbolic sizes: from ONNX dimensions, which are names, to sympy expressions, and back."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
import sympy

Dim = int | ir.SymbolicDim


def symbol(name: str) -> sympy.Symbol:
    """The sympy symbol of a dimension name (the assumptions are those of ``onnx_ir``)."""
    return sympy.Symbol(name, integer=True, positive=True)


def to_expression(dim: Dim) -> sympy.Expr | None:
    """The size of a dimension as an expression; None for an anonymous unknown size."""
    if isinstance(dim, int):
        return sympy.Integer(dim)
    if dim.value is None:
        return None
    if dim.value.isidentifier():
        return symbol(dim.value)
    # onnx_ir parses "4*B + 1" safely but offers the result only under this name.
    return dim._expr


def to_dim(expression: sympy.Expr | int | None) -> Dim:
    """The ONNX dimension of a size."""
    if expression is None:
        return ir.SymbolicDim(None)
    if isinstance(expression, int):
        return expression
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        return ir.SymbolicDim(expression.name)
    return ir.SymbolicDim(expression)


def shape_expressions(value: ir.Value | None) -> tuple[sympy.Expr, ...] | None:
    """All sizes of a value, or None unless every one of them has at least a name."""
    if value is None or value.shape is None:
        return None
    sizes = [to_expression(dim) for dim in value.shape]
    if any(size is None for size in sizes):
        return None
    return tuple(size for size in sizes if size is not None)


def to_shape(expressions: Iterable[sympy.Expr | int | None]) -> ir.Shape:
    """An ONNX shape from sizes."""
    return ir.Shape([to_dim(expression) for expression in expressions])
