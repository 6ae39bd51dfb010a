"""Shape inference, node by node: ONNX's own rules, the dialect's rules, and symbolic size data.

ONNX's whole-model inference forgets which sizes are equal as soon as they pass through ``Reshape``
or ``Expand``. Here every node goes through ONNX's inference alone, and the few operators whose
result depends on computed sizes are resolved from :class:`ShapeData`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx
import onnx.checker
import onnx.defs
import onnx.shape_inference
import onnx_ir as ir
import sympy

from .dialect import declaration_of
from .module import Module, constant_value
from .shape_data import ShapeData, SizeVector
from .symbols import Dim, shape_expressions, to_dim, to_expression, to_shape

_MAX_DATA_ELEMENTS = 64
_INT64_MAX = 2**63 - 1
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def infer_shapes(module: Module) -> None:
    """Fill in shapes and dtypes of all values, those of subgraphs too; what is known is kept."""
    data = ShapeData()
    version = module.opset
    for node in module.nodes():
        infer_node(node, data, version)


def infer_node(node: ir.Node, data: ShapeData, opset: int) -> None:
    """Fill in shapes and dtypes of one node's outputs; what is known already is kept."""
    declaration = declaration_of(node)
    if declaration is not None:
        for output, dtype in zip(
            node.outputs,
            declaration.dtype_rule([v.dtype if v else None for v in node.inputs]),
            strict=False,
        ):
            if output.dtype is None and dtype is not None:
                output.dtype = dtype
        shapes = [shape_expressions(value) for value in node.inputs]
        try:
            inferred = declaration.shape_rule(shapes, node.attributes)
        except (ValueError, KeyError):
            return  # an input shape is unknown, and so is the output's
        for output, dims in zip(node.outputs, inferred, strict=False):
            _merge(output, to_shape(dims))
        return
    if node.domain != "":
        return
    _infer_standard(node, opset)
    rule = _SIZE_RULES.get(node.op_type)
    sizes = rule(data, node) if rule else None
    if sizes is not None:
        _merge(node.outputs[0], ir.Shape(sizes))


def _infer_standard(node: ir.Node, opset: int) -> None:
    if not onnx.defs.has(node.op_type) or node.op_type in _CONTROL_FLOW:
        return
    if any(value is not None and value.type is None for value in node.inputs):
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        types = onnx.shape_inference.infer_node_outputs(
            schema,
            ir.to_proto(node),
            _input_types(node.inputs),
            _input_data(node.inputs),
            opset_imports=[onnx.helper.make_opsetid("", opset)],
            ir_version=10,
        )
    except (
        onnx.defs.SchemaError,
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,  # an input's type is not known
    ):
        return  # inference is best effort; the verifier judges the graph
    for output in node.outputs:
        inferred = types.get(output.name or "")
        if inferred is None or not inferred.HasField("tensor_type"):
            continue
        _merge_type(output, inferred)


def _input_types(values: Iterable[ir.Value | None]) -> dict[str, onnx.TypeProto]:
    types: dict[str, onnx.TypeProto] = {}
    for value in values:
        if value is None or not value.name or value.dtype is None:
            continue
        if not isinstance(value.type, ir.TensorType):
            types[value.name] = ir.serde.serialize_type(value.type)  # type: ignore[arg-type]
            continue
        types[value.name] = onnx.helper.make_tensor_type_proto(
            int(value.dtype),
            None if value.shape is None else [_onnx_dim(dim) for dim in value.shape],
        )
    return types


def _onnx_dim(dim: Dim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value


def _input_data(values: Iterable[ir.Value | None]) -> dict[str, onnx.TensorProto]:
    data: dict[str, onnx.TensorProto] = {}
    for value in values:
        tensor = constant_value(value)
        if value is None or tensor is None or not value.name or tensor.size > _MAX_DATA_ELEMENTS:
            continue
        data[value.name] = ir.to_proto(ir.Tensor(tensor.numpy(), name=value.name))
    return data


def _merge_type(output: ir.Value, inferred: onnx.TypeProto) -> None:
    tensor_type = inferred.tensor_type
    if output.dtype is None and tensor_type.elem_type:
        output.dtype = ir.DataType(tensor_type.elem_type)
    if not tensor_type.HasField("shape"):
        return
    dims: list[Dim] = []
    for dim in tensor_type.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value)
        else:
            dims.append(ir.SymbolicDim(dim.dim_param or None))
    _merge(output, ir.Shape(dims))


def _merge(value: ir.Value, inferred: ir.Shape) -> None:
    """Take over what is new: a size over a name, a name over nothing, and ranks where unknown."""
    if value.shape is None:
        value.shape = inferred
        return
    if len(value.shape) != len(inferred):
        return  # a contradiction: the verifier reports it, inference does not hide it
    value.shape = ir.Shape(
        [_more_precise(known, new) for known, new in zip(value.shape, inferred, strict=True)]
    )


def _more_precise(known: Dim, new: Dim) -> Dim:
    if isinstance(known, int) or isinstance(new, int):
        return known if isinstance(known, int) else new
    return new if known.value is None else known


def _reshape(data: ShapeData, node: ir.Node) -> list[Dim] | None:
    source, target = node.inputs[0], data.evaluate(node.inputs[1])
    if source is None or source.shape is None or target is None:
        return None
    keep_zero = "allowzero" in node.attributes and node.attributes["allowzero"].as_int() == 1
    sizes: list[sympy.Expr | None] = []
    for axis, size in enumerate(target):
        if size == 0 and not keep_zero and axis < len(source.shape):
            sizes.append(to_expression(source.shape[axis]))
        else:
            sizes.append(size)
    return [to_dim(size) for size in _resolve_minus_one(sizes, source)]


def _resolve_minus_one(sizes: list[sympy.Expr | None], source: ir.Value) -> SizeVector:
    if -1 not in sizes:
        return tuple(sizes)
    total = shape_expressions(source)
    rest = [size for size in sizes if size != -1]
    rest_known = [size for size in rest if size is not None]
    if total is None or len(rest_known) != len(rest):
        return tuple(None if size == -1 else size for size in sizes)
    missing = sympy.cancel(sympy.Mul(*total) / sympy.Mul(*rest_known))
    return tuple(missing if size == -1 else size for size in sizes)


def _expand(data: ShapeData, node: ir.Node) -> list[Dim] | None:
    source, target = node.inputs[0], data.evaluate(node.inputs[1])
    if source is None or source.shape is None or target is None:
        return None
    own = [to_expression(dim) for dim in source.shape]
    width = max(len(own), len(target))
    padded_own = [sympy.Integer(1)] * (width - len(own)) + own
    padded_target = [sympy.Integer(1)] * (width - len(target)) + list(target)
    return [
        to_dim(asked if mine == 1 else mine)
        for mine, asked in zip(padded_own, padded_target, strict=True)
    ]


def _filled(data: ShapeData, node: ir.Node) -> list[Dim] | None:
    target = data.evaluate(node.inputs[0])
    return None if target is None else [to_dim(size) for size in target]


def _range(data: ShapeData, node: ir.Node) -> list[Dim] | None:
    bounds = [data.evaluate(item) for item in node.inputs]
    known = [bound[0] for bound in bounds if bound is not None and bound[0] is not None]
    if len(known) != 3 or known[2] != 1:
        return None
    return [to_dim(known[1] - known[0])]


def _slice(data: ShapeData, node: ir.Node) -> list[Dim] | None:
    """Slices that start at 0 with step 1: as long as asked for, or as there is."""
    source = node.inputs[0]
    if source is None or source.shape is None or len(node.inputs) < 4:
        return None
    parts = [data.evaluate(item) for item in node.inputs[1:4]]
    if any(part is None or any(x is None for x in part) for part in parts):
        return None
    starts, ends, axes = (list(part) for part in parts if part is not None)
    steps = data.evaluate(node.inputs[4]) if len(node.inputs) > 4 else None
    dims: list[Dim] = list(source.shape)
    for position, axis in enumerate(axes):
        step = 1 if steps is None else steps[position]
        if step != 1 or starts[position] != 0 or axis is None or not axis.is_Integer:
            return None
        end, own = ends[position], to_expression(dims[int(axis)])
        if end is not None and end == _INT64_MAX:
            continue  # to the end, whatever the size
        if end is None or end.is_Integer:
            # ONNX's own inference handles constant bounds of constant sizes; else it is not known.
            dims[int(axis)] = ir.SymbolicDim(None)
            continue
        # A symbolic end past a constant table would fail elsewhere; the table bounds the symbol.
        dims[int(axis)] = to_dim(end if own is None or own.is_Integer or own == end else None)
    return dims


def _flatten(data: ShapeData, node: ir.Node) -> list[Dim] | None:
    """ONNX's own inference gives up on a product of names."""
    sizes = shape_expressions(node.inputs[0])
    if sizes is None:
        return None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    axis = axis + len(sizes) if axis < 0 else axis
    return [to_dim(sympy.Mul(*sizes[:axis])), to_dim(sympy.Mul(*sizes[axis:]))]


_SIZE_RULES: dict[str, Callable[[ShapeData, ir.Node], list[Dim] | None]] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Slice": _slice,
    "Flatten": _flatten,
}
