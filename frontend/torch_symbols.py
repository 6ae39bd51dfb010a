"""Readable names and true ranges for the symbolic sizes of a captured program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from dechaff.ir import SymbolRange, symbol, to_expression, to_shape

from .torch_axes import Axis, InputSignature, finite, name_axes

_SPECIALIZED_BELOW = 2


def symbol_names(
    program: ExportedProgram, inputs: Sequence[str | None], chosen: Mapping[Axis, str]
) -> dict[str, str]:
    """Our name for each of torch's symbols (``s72``) that is the size of an input's axis.

    Args:
        program: the captured program.
        inputs: name of each input leaf that is a tensor, else None.
        chosen: names chosen before the capture; axes without one are named by what they look like.
    """
    shapes = {
        node.name: node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor)
    }
    signatures = [
        InputSignature(leaf, name, tuple(map(_size, shapes[name].shape)), shapes[name].dtype)
        for leaf, name in enumerate(inputs)
        if name is not None and name in shapes
    ]
    guessed = name_axes(signatures)
    names: dict[str, str] = {}
    for signature in signatures:
        for axis, size in enumerate(signature.sizes):
            if not isinstance(size, str) or size in names:
                continue
            name = chosen.get((signature.leaf, axis)) or guessed.get((signature.leaf, axis))
            if name is None or name in names.values():
                # torch did not show that this size equals the one that has the name already.
                name = f"{signature.name}_dim_{axis}"
            names[size] = name
    return names


def _size(size: int | torch.SymInt) -> int | str:
    """A constant, the name of a symbol, or an expression that keeps its own kind."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if expression.is_Integer:
        return int(expression)
    return str(expression) if expression.is_Symbol else 1


def rename_symbols(model: ir.Model, names: Mapping[str, str]) -> None:
    """Rename symbolic sizes everywhere in the model."""
    replacements = {symbol(old): symbol(new) for old, new in names.items()}
    for value in _values(model):
        if value.shape is None or value.shape.is_static():
            continue
        sizes = [to_expression(dim) for dim in value.shape]
        value.shape = to_shape(
            size if size is None else size.xreplace(replacements) for size in sizes
        )


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs
    for function in model.functions.values():
        yield from function.inputs
        for node in function.all_nodes():
            yield from node.outputs


def symbol_ranges(program: ExportedProgram, names: Mapping[str, str]) -> dict[str, SymbolRange]:
    """Ranges of all symbols, by our names.

    torch's own lower bounds 0 and 2 say nothing of the graph: it takes sizes 0 and 1 for constants
    and so never uses them to stand for "any size". Standard ONNX operators make no such
    difference, and what the graph computes holds from 1 on. A larger bound is the model's own.
    """
    ranges: dict[str, SymbolRange] = {}
    for torch_symbol, limits in program.range_constraints.items():
        name = str(torch_symbol)
        minimum, maximum = finite(limits.lower), finite(limits.upper)
        if name not in names:
            ranges[name] = SymbolRange(max(minimum or 0, 0), maximum)
            continue
        own_minimum = minimum if minimum is not None and minimum > _SPECIALIZED_BELOW else 1
        ranges[names[name]] = SymbolRange(own_minimum, maximum)
    return ranges
