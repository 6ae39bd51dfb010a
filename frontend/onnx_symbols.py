"""Symbolic sizes of a model from a file: named at its inputs, followed from there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir
import sympy

from dechaff.ir import Module, SymbolRange, infer_shapes, to_expression

_NOT_OF_A_NAME = re.compile(r"\W+")


def name_input_sizes(module: Module) -> None:
    """Give every variable size of a graph input a name, and record the names.

    A size without a name becomes ``<input>_dim_<axis>``; a name that is none, such as
    ``batch-size``, is spelled as one, the same wherever it occurs.
    """
    weights = set(module.graph.initializers.values())
    inputs = [value for value in module.graph.inputs if value not in weights]
    plain = {name for value in inputs for name in _names(value) if name.isidentifier()}
    for value in inputs:
        if value.shape is None:
            continue
        value.shape = ir.Shape(
            [_named(dim, f"{value.name}_dim_{axis}", plain) for axis, dim in enumerate(value.shape)]
        )
    for value in inputs:
        for name in sorted(_symbols(value)):
            module.symbols.setdefault(name, SymbolRange(minimum=1))


def _names(value: ir.Value) -> Iterator[str]:
    for dim in value.shape or ():
        if isinstance(dim, ir.SymbolicDim) and dim.value:
            yield dim.value


def _named(dim: int | ir.SymbolicDim, default: str, plain: set[str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int):
        return dim if dim >= 0 else ir.SymbolicDim(_spelled(default))
    if dim.value is None:
        return ir.SymbolicDim(_spelled(default))
    if dim.value.isidentifier() or _is_expression_of(dim, plain):
        return dim
    return ir.SymbolicDim(_spelled(dim.value, default))


def _spelled(name: str, default: str = "") -> str:
    spelled = _NOT_OF_A_NAME.sub("_", name).strip("_") or _NOT_OF_A_NAME.sub("_", default)
    return spelled if spelled.isidentifier() else f"dim_{spelled}"


def _is_expression_of(dim: ir.SymbolicDim, plain: set[str]) -> bool:
    """Whether a size such as ``past + sequence`` is one of sizes that other inputs have."""
    expression = _expression(dim)
    if expression is None:
        return False
    symbols = {item.name for item in expression.free_symbols}
    return bool(symbols) and symbols <= plain


def _expression(dim: int | ir.SymbolicDim) -> sympy.Expr | None:
    try:
        return to_expression(dim)
    except (ValueError, TypeError, SyntaxError):
        return None


def _symbols(value: ir.Value) -> set[str]:
    expressions = [_expression(dim) for dim in value.shape or ()]
    return {item.name for size in expressions if size is not None for item in size.free_symbols}


def infer_from_scratch(module: Module) -> None:
    """Infer all shapes in the symbols of the inputs.

    Exporters invent a name for a size they lost track of (``Reshapeoutput_dim_0``). Such names are
    set aside, and come back only where inference finds nothing: a graph that says that two sizes
    are equal by computing is better than a file that calls them by two names.
    """
    known = {name for value in module.graph.inputs for name in _symbols(value)}
    declared: dict[ir.Value, ir.Shape] = {}
    for node in module.graph:
        for value in node.outputs:
            if value.shape is None:
                continue
            declared[value] = value.shape
            value.shape = ir.Shape([_trusted(dim, known) for dim in value.shape])
    infer_shapes(module)
    if not _restore(declared):
        return
    infer_shapes(module)


def _trusted(dim: int | ir.SymbolicDim, known: set[str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int):
        return dim if dim >= 0 else ir.SymbolicDim(None)
    expression = _expression(dim)
    if expression is not None and {item.name for item in expression.free_symbols} <= known:
        return dim
    return ir.SymbolicDim(None)


def _restore(declared: dict[ir.Value, ir.Shape]) -> bool:
    """Bring declared names back where nothing was inferred; whether there was any."""
    restored = False
    for value, shape in declared.items():
        if value.shape is None or len(value.shape) != len(shape):
            continue
        dims = list(value.shape)
        for axis, dim in enumerate(shape):
            found = dims[axis]
            if not isinstance(found, ir.SymbolicDim) or found.value is not None:
                continue
            if isinstance(dim, ir.SymbolicDim) and (dim.value or "").isidentifier():
                dims[axis] = dim
                restored = True
        value.shape = ir.Shape(dims)
    return restored
