"""Text forms: a whole module in ONNX's syntax, one operation on a line, readable diffs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import onnx
import onnx.parser
import onnx_ir as ir

from .errors import ModelRejectedError
from .module import Module

_DTYPE_NAMES = {ir.DataType.FLOAT: "float", ir.DataType.DOUBLE: "double"}
_MAX_LIST = 8


def parse(text: str, source: str = "text") -> Module:
    """Read a module from ONNX's textual syntax.

    Raises:
        ModelRejectedError: the text is not a model; the message holds the parser's own, which
            points at the place.
    """
    try:
        return Module(ir.from_onnx_text(text), source=source)
    except (onnx.parser.ParseError, ValueError, RuntimeError) as error:
        raise ModelRejectedError(f"{source}: not a model in ONNX text form: {error}") from error


def to_text(module: Module) -> str:
    """The whole module, functions and weights included, in ONNX's textual syntax."""
    return ir.to_onnx_text(module.model)


def dtype_name(dtype: ir.DataType | None) -> str:
    """The name ONNX's textual syntax gives a dtype; ``?`` if it is not known."""
    if dtype is None:
        return "?"
    return _DTYPE_NAMES.get(dtype, dtype.name.lower())


def value_type_text(value: ir.Value) -> str:
    """Dtype and shape, such as ``float[B,S,768]``."""
    if value.shape is None:
        return f"{dtype_name(value.dtype)}[?]"
    sizes = ",".join(
        str(dim) if isinstance(dim, int) else (dim.value or "?") for dim in value.shape
    )
    return f"{dtype_name(value.dtype)}[{sizes}]"


def node_text(node: ir.Node, *, types: bool = True) -> str:
    """One operation on one line: ``float[B,S,8] y = MatMul (x, w)``."""
    results = ", ".join(
        f"{value_type_text(out)} {out.name or '_'}" if types else (out.name or "_")
        for out in node.outputs
    )
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    attributes = ", ".join(
        f"{name} = {attribute_text(attribute)}" for name, attribute in node.attributes.items()
    )
    operands = ", ".join(
        (value.name or "_") if value is not None else '""' for value in node.inputs
    )
    return f"{results} = {operator}{f' <{attributes}>' if attributes else ''} ({operands})"


def attribute_text(attribute: ir.Attr) -> str:
    """The value of an attribute; long tensors and subgraphs are elided."""
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if attribute.type is ir.AttributeType.GRAPH:
        return "{...}"
    if attribute.type is ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        if tensor.size <= _MAX_LIST:
            return f"{dtype_name(tensor.dtype)}{list(tensor.shape)} {tensor.numpy().tolist()}"
        return f"{dtype_name(tensor.dtype)}{list(tensor.shape)} {{...}}"
    value = attribute.value
    if isinstance(value, str):
        return f'"{value}"'
    return str(list(value)) if isinstance(value, tuple) else str(value)


def graph_lines(module: Module, *, types: bool = True) -> Iterator[str]:
    """The main graph, a line each: inputs, then operations in order, then outputs."""
    for value in module.graph.inputs:
        yield f"input {value_type_text(value)} {value.name}"
    for node in module.graph:
        yield node_text(node, types=types)
    for value in module.graph.outputs:
        yield f"output {value_type_text(value)} {value.name}"


def canonical_lines(module: Module) -> list[str]:
    """The main graph with values renamed in order of appearance: equal for equal structure.

    Weights are named by dtype and shape. Graph inputs and outputs keep their names, which are part
    of the interface.
    """
    names: dict[ir.Value, str] = {value: value.name or "" for value in module.graph.inputs}
    outputs = {value: value.name or "" for value in module.graph.outputs}
    lines: list[str] = []
    for node in module.graph:
        operands = [_canonical_name(value, names) for value in node.inputs]
        for result in node.outputs:
            names[result] = outputs.get(result, f"%{len(names)}")
        attributes = sorted(f"{k} = {attribute_text(v)}" for k, v in node.attributes.items())
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        results = ", ".join(names[result] for result in node.outputs)
        lines.append(f"{results} = {operator} <{', '.join(attributes)}> ({', '.join(operands)})")
    return lines


def _canonical_name(value: ir.Value | None, names: dict[ir.Value, str]) -> str:
    if value is None:
        return '""'
    if value not in names:
        tensor = value.const_value
        if tensor is not None and tensor.size <= _MAX_LIST:
            names[value] = f"{dtype_name(value.dtype)}{tensor.numpy().tolist()}"
        else:
            names[value] = f"${value_type_text(value)}"
    return names[value]


def structural_diff(before: Module, after: Module) -> str:
    """A unified diff of two graphs up to the names of values; empty if the structures are equal."""
    return "\n".join(
        difflib.unified_diff(
            canonical_lines(before), canonical_lines(after), "before", "after", lineterm=""
        )
    )
