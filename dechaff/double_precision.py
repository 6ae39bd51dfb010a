"""A model's results in float64: what both sides of a dispute about rounding are measured by."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, MutableSequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from dechaff.ir import DechaffError, Module, attach_functions, num_parameters

from .arrays import Array, Arrays

_MOST_PRODUCTS = 5e10
"""Largest product of parameters and input elements that is computed by ONNX's slow reference."""

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_DOUBLE = onnx.TensorProto.DOUBLE
_TYPE_ATTRIBUTES = ("to", "dtype", "softmax_precision")
_NUMBERS = {"value_float": 0, "value_floats": 1}
"""Attributes of ``Constant`` that hold float32, with the rank of what they make."""


_STANDARD_TOO = {("com.microsoft", "Gelu")}
"""Operators of the runtime that ONNX has too, by the same name and of the same meaning."""


class NotInDoubleError(DechaffError):
    """The model is too large for the reference, or holds an operator that it has not."""


def run_in_double(module: Module, inputs: Mapping[str, Array]) -> Arrays:
    """Outputs in float64: every float of the model is widened, then ONNX's reference runs it.

    Args:
        module: any module; dialect operators run as their functions.
        inputs: an array per graph input, by name.

    Raises:
        NotInDoubleError: the model is too large, or the reference fails on it.
    """
    elements = max((np.asarray(array).size for array in inputs.values()), default=1)
    if num_parameters(module) * elements > _MOST_PRODUCTS:
        raise NotInDoubleError("the model is too large for it")
    feeds = {name: _widened(array) for name, array in inputs.items()}
    names = [value.name or "" for value in module.graph.outputs]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            results = ReferenceEvaluator(_in_double(module)).run(names, feeds)
    except Exception as error:  # the reference raises whatever its operators stumble over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotInDoubleError(reason[:200]) from error
    return {name: np.asarray(array) for name, array in zip(names, results, strict=True)}


def _widened(array: Array) -> Array:
    is_narrow = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return array.astype(np.float64) if is_narrow else array


def _in_double(module: Module) -> onnx.ModelProto:
    """The model with float64 in place of every narrower float type."""
    copy = module.clone()
    attach_functions(copy)
    for value in copy.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype is not ir.DataType.STRING:  # out of its file, too
            value.const_value = ir.tensor(_widened(tensor.numpy()), name=value.name)
    proto = ir.to_proto(copy.model)
    for values in (proto.graph.input, proto.graph.output):
        for info in values:
            if info.type.tensor_type.elem_type in _FLOATS:
                info.type.tensor_type.elem_type = _DOUBLE
    _widen_graph(proto.graph)
    for function in proto.functions:
        _widen_nodes(function.node)
    return proto


def _widen_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    _widen_nodes(graph.node)


def _widen_nodes(nodes: MutableSequence[onnx.NodeProto]) -> None:
    widened = [new for node in nodes for new in _widen_node(node)]
    del nodes[:]
    nodes.extend(widened)


def _widen_node(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The node in float64; a second one where its float32 comes from a function's attribute."""
    for attribute in node.attribute:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _FLOATS:
            attribute.i = _DOUBLE
        if attribute.HasField("t"):
            _widen_tensor(attribute.t)
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for info in graph.input:
                if info.type.tensor_type.elem_type in _FLOATS:
                    info.type.tensor_type.elem_type = _DOUBLE
            _widen_graph(graph)
    if (node.domain, node.op_type) in _STANDARD_TOO:
        node.domain = ""
    makes_zeros = node.op_type == "ConstantOfShape" and not node.attribute
    if makes_zeros:
        zero = onnx.numpy_helper.from_array(np.zeros(1))
        node.attribute.append(onnx.helper.make_attribute("value", zero))
    if node.op_type == "Constant" and node.attribute[0].name in _NUMBERS:
        name = node.output[0]
        node.output[0] = f"{name}_float32"
        yield node
        yield onnx.helper.make_node("Cast", [node.output[0]], [name], to=_DOUBLE)
        return
    yield node


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
