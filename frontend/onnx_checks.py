"""Checks of an ONNX file before anything is built from it: files come from strangers."""

from __future__ import annotations

import graphlib
import math
from collections.abc import Iterator
from typing import Any

import onnx
import onnx.defs
import onnx_ir as ir

from dechaff.ir import ModelRejectedError, Module, node_text

from .onnx_limits import check_limits

_MAX_SUBGRAPH_DEPTH = 24
_MAX_FUNCTION_DEPTH = 64
_DATA_FIELDS = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "raw_data",
    "double_data",
    "uint64_data",
)
_FIELD_OF_DTYPE = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.UINT64: "uint64_data",
}
"""Where values stand that are not raw; those of all other dtypes are in ``int32_data``."""

_DATA_TYPES = frozenset(int(dtype) for dtype in ir.DataType if dtype is not ir.DataType.UNDEFINED)

_ATTRIBUTE_FIELDS = {onnx.AttributeProto.TENSOR: "t", onnx.AttributeProto.GRAPH: "g"}
"""Where a value must be given; numbers and text have a default, and lists may be empty."""

_Owner = onnx.GraphProto | onnx.FunctionProto


def check_proto(proto: onnx.ModelProto, source: str) -> None:
    """Check what building a graph would trip over, or worse, would accept.

    Raises:
        ModelRejectedError: a tensor has no, two or too few data; nesting is too deep; functions
            call each other in a circle; two things have one name; there is too much of something.
    """
    check_limits(proto, _check_functions(proto, source), source)
    for owner in (proto.graph, *proto.functions):
        for tensor in tensors_of(owner, 0, source):
            _check_tensor(tensor, source)


def _check_names(owner: _Owner, source: str) -> None:
    """Names are text (protobuf hands over bytes where they are not) and print as such."""
    values = [*owner.input, *owner.output, *owner.value_info]
    names = [value if isinstance(value, str | bytes) else value.name for value in values]
    for node in owner.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    names.append(owner.name)
    for name in names:
        if not isinstance(name, str):
            raise ModelRejectedError(f"{source}: the name {name!r} is no text: the file is damaged")
        if not name.isprintable():  # a terminal would obey some of them
            raise ModelRejectedError(f"{source}: the name {name[:80]!r} cannot be printed")
    if isinstance(owner, onnx.GraphProto):
        _check_unique("inputs", [value.name for value in owner.input], source)
        _check_unique("weights", [tensor.name for tensor in owner.initializer], source)


def _check_unique(kind: str, names: list[str], source: str) -> None:
    if len(set(names)) < len(names):
        name = next(name for index, name in enumerate(names) if name in names[:index])
        raise ModelRejectedError(f"{source}: two {kind} have the name {name!r}")


def _check_attribute(attribute: onnx.AttributeProto, node: onnx.NodeProto, source: str) -> None:
    field = _ATTRIBUTE_FIELDS.get(attribute.type)
    has_value = field is None or attribute.HasField(field)
    if not attribute.type or not (has_value or attribute.ref_attr_name):
        raise ModelRejectedError(
            f"{source}: attribute {attribute.name!r} of {node.op_type} {node.name!r} has no value: "
            "the file is damaged"
        )


def tensors_of(owner: _Owner, depth: int, source: str) -> Iterator[onnx.TensorProto]:
    """All tensors of a graph or function, those of subgraphs too; names are checked on the way."""
    if isinstance(owner, onnx.GraphProto):
        yield from owner.initializer
        if owner.sparse_initializer:
            raise ModelRejectedError(
                f"{source}: sparse initializers are not supported; store "
                f"{owner.sparse_initializer[0].values.name!r} as a dense tensor"
            )
    _check_names(owner, source)
    for node in owner.node:
        for attribute in node.attribute:
            _check_attribute(attribute, node, source)
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for graph in _subgraphs(node, depth, source):
            yield from tensors_of(graph, depth + 1, source)


def _check_tensor(tensor: onnx.TensorProto, source: str) -> None:
    where = f"{source}: tensor {tensor.name!r}"
    lengths = {field: len(getattr(tensor, field)) for field in _DATA_FIELDS}
    filled = [field for field, length in lengths.items() if length]
    is_external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if len(filled) + is_external > 1:
        fields = [*filled, *(["external_data"] if is_external else [])]
        raise ModelRejectedError(
            f"{where} carries its values {len(fields)} times ({', '.join(fields)}): programs would "
            "disagree about which to use"
        )
    texts = [
        tensor.name,
        *(text for item in tensor.external_data for text in (item.key, item.value)),
    ]
    if not all(isinstance(text, str) for text in texts):
        raise ModelRejectedError(f"{where} has a name or a location that is no text")
    if tensor.data_type not in _DATA_TYPES:
        raise ModelRejectedError(f"{where} has the unknown dtype {tensor.data_type}")
    if any(size < 0 for size in tensor.dims):
        raise ModelRejectedError(f"{where} has a negative size in {list(tensor.dims)}")
    if is_external:
        return
    dtype, size = ir.DataType(tensor.data_type), math.prod(tensor.dims)
    if dtype is ir.DataType.STRING:
        _expect(where, lengths["string_data"], size, "strings")
    elif filled in ([], ["raw_data"]):
        _expect(where, lengths["raw_data"], math.ceil(size * dtype.bitwidth / 8), "bytes")
    elif filled != [_FIELD_OF_DTYPE.get(dtype, "int32_data")]:
        raise ModelRejectedError(f"{where} is of {dtype.name} and keeps its values in {filled[0]}")
    elif dtype.bitwidth >= 8:  # narrower numbers share an element
        parts = 2 if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128) else 1
        _expect(where, lengths[filled[0]], size * parts, "numbers")


def _expect(where: str, got: int, expected: int, unit: str) -> None:
    if got != expected:
        raise ModelRejectedError(
            f"{where} has {got} {unit} of data, its shape needs {expected}: the file is damaged"
        )


def _check_functions(
    proto: onnx.ModelProto, source: str
) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Functions may call functions, to a depth, and never in a circle.

    Returns:
        The functions that each one calls, as often as it does; those that are called come first.
    """
    _check_unique("functions", [f"{f.domain}.{f.name}" for f in proto.functions], source)
    bodies = {(function.domain, function.name): function for function in proto.functions}
    calls = {
        key: [name for name in _called(body, 0, source) if name in bodies]
        for key, body in bodies.items()
    }
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(name for _, name in reversed(error.args[1]))
        raise ModelRejectedError(f"{source}: functions call themselves: {circle}") from None
    depths: dict[tuple[str, str], int] = {}
    for key in order:
        depths[key] = 1 + max((depths[name] for name in calls[key]), default=0)
    if max(depths.values(), default=0) > _MAX_FUNCTION_DEPTH:
        raise ModelRejectedError(
            f"{source}: functions call functions deeper than {_MAX_FUNCTION_DEPTH} levels"
        )
    return {key: calls[key] for key in order}


def _called(owner: _Owner, depth: int, source: str) -> Iterator[tuple[str, str]]:
    for node in owner.node:
        yield node.domain, node.op_type
        for graph in _subgraphs(node, depth, source):
            yield from _called(graph, depth + 1, source)


def _subgraphs(node: onnx.NodeProto, depth: int, source: str) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        graphs = [*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs]
        if graphs and depth >= _MAX_SUBGRAPH_DEPTH:
            raise ModelRejectedError(
                f"{source}: subgraphs are nested deeper than {_MAX_SUBGRAPH_DEPTH} levels"
            )
        yield from graphs


def check_attributes(module: Module) -> None:
    """Check the attributes of standard operators against their declaration.

    Raises:
        ModelRejectedError: lists every attribute that is missing or of another type.
    """
    problems = list(_attribute_problems(module))
    if problems:
        raise ModelRejectedError(
            f"{module.source}: {len(problems)} attribute(s) are not what their operators declare:\n"
            + "\n".join(problems)
        )


def _attribute_problems(module: Module) -> Iterator[str]:
    for node in module.nodes():
        if node.domain != "" or not onnx.defs.has(node.op_type):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, module.opset, "")
        except onnx.defs.SchemaError:
            continue
        unknown = sorted(set(node.attributes) - set(schema.attributes))
        if node.op_type == "Constant" and (unknown or len(node.attributes) != 1):
            yield f"one attribute is expected that holds the value, in\n    {node_text(node)}"
        for name, declared in schema.attributes.items():
            given = node.attributes.get(name)
            if given is None and declared.required:
                yield f"{name!r} is missing, in\n    {node_text(node)}"
            elif given is not None and given.type is not _declared_type(declared):
                expected = _declared_type(declared).name
                yield f"{name!r} is {given.type.name}, not {expected}, in\n    {node_text(node)}"


def _declared_type(attribute: Any) -> ir.AttributeType:
    return ir.AttributeType(attribute.type.value)
