"""Whether two results differ by rounding alone: both graphs in float64 say.

A mask of -10000 rounds the scores of a row that sees nothing else to a thousandth. What the
original computes there is as far from what it means as what any other order of summation gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.reference
from onnx import numpy_helper

from dechaff.arrays import Array, Arrays

_AS_FAR = 4.0
"""Roundings of one value by two orders of summation are told apart by a small factor at most."""
_AGREEMENT = 1e-6
"""How near two graphs are in float64 that compute the same function, relative to its scale: what is
left is constants that were rounded to float32 when they were folded."""


def differs_by_rounding(
    original: onnx.ModelProto,
    optimized: onnx.ModelProto,
    inputs: Sequence[Arrays],
    results: Sequence[Sequence[Arrays]],
) -> bool:
    """Whether the graphs agree in float64, and the second is about as near that truth as the first.

    Args:
        original: the first graph, of standard operators.
        optimized: the second, of standard operators and functions.
        inputs: of each case.
        results: outputs of the original in its own types for each case, and of the optimized one.
    """
    own, others = 0.0, 0.0
    first, second = (onnx.reference.ReferenceEvaluator(in_double(m)) for m in (original, optimized))
    for case, mine, theirs in zip(inputs, *results, strict=True):
        wide = {name: _widened(array) for name, array in case.items()}
        truth, other_truth = first.run(None, wide), second.run(None, wide)
        for name, exact, again in zip(first.output_names, truth, other_truth, strict=True):
            if np.abs(exact - again).max() > _AGREEMENT * max(1.0, float(np.abs(exact).max())):
                return False
            own = max(own, float(np.abs(mine[name] - exact).max()))
            others = max(others, float(np.abs(theirs[name] - exact).max()))
    return others <= _AS_FAR * own


def _widened(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float32 in it a float64."""
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in wide.graph.initializer:
        _widen_tensor(tensor)
    for nodes in (wide.graph.node, *(function.node for function in wide.functions)):
        for node in nodes:
            _widen_node(node)
    for value in (*wide.graph.input, *wide.graph.output, *wide.graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return wide


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _widen_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _widen_tensor(attribute.t)
        names_a_type = (node.op_type == "Cast" and attribute.name == "to") or (
            attribute.name == "stash_type"
        )
        if names_a_type and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.DOUBLE
