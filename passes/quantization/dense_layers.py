"""Finds the dense layers of a graph: products of activations with a constant matrix."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dechaff.ir import Module, constant_value, module_path, unload_mapped
from dechaff.passes.matching import integer_attribute, is_op, sizes_of
from dechaff.passes.rewriter import Rewriter

Matrix = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """A product of activations with a matrix of weights, and the bias that is part of it.

    Attributes:
        node: a ``MatMul``, or a ``Gemm``.
        x: the activations, float32[..., K].
        weight: the matrix, a constant.
        transposed: whether the constant is stored as [N, K].
        bias: what a ``Gemm`` adds, or None.
    """

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    transposed: bool = False
    bias: ir.Value | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """Features in and out, K and N."""
        tensor = constant_value(self.weight)
        assert tensor is not None  # it was found as a constant
        rows, columns = sizes_of(tensor)
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def name(self) -> str:
        """The path of the module that the layer comes from, or the name of its node."""
        path = module_path(self.node)
        return path if path and path != "/" else (self.node.name or self.node.op_type)

    def matrix(self) -> Matrix:
        """The weights as float32[K, N]."""
        tensor = constant_value(self.weight)
        assert tensor is not None  # it was found as a constant
        array = tensor.numpy().astype(np.float32, copy=False)
        return array.T if self.transposed else array


def dense_layers(
    module: Module, rewriter: Rewriter, rule: str, exclude: str = ""
) -> Iterator[DenseLayer]:
    """The dense layers of the main graph, in order; why a product is none is a near miss.

    Args:
        module: the module.
        rewriter: is told of products that are left as they are.
        rule: the rule that asks.
        exclude: patterns of layer names to leave as they are, separated by ``|``.
    """
    patterns = [pattern for pattern in exclude.split("|") if pattern]
    for node in list(module.graph):
        if not is_op(node, "MatMul", "Gemm"):
            continue
        layer = _as_layer(node)
        reason = layer if isinstance(layer, str) else _reason_to_leave(layer, patterns)
        if reason is not None:
            rewriter.miss(rule, node, reason)
        elif isinstance(layer, DenseLayer):
            yield layer


def _as_layer(node: ir.Node) -> DenseLayer | str:
    """The dense layer that a product is, or why it is none."""
    x, weight = node.inputs[:2]
    tensor = constant_value(weight)
    if x is None or weight is None or tensor is None:
        return "its second operand is not a constant"
    if len(tensor.shape) != 2:
        return f"its weights have {len(tensor.shape)} axes and not two"
    if tensor.dtype is not ir.DataType.FLOAT or x.dtype is not ir.DataType.FLOAT:
        return "it is not computed in float32"
    if node.op_type == "MatMul":
        return DenseLayer(node, x, weight)
    factors = [_factor(node, name) for name in ("alpha", "beta")]
    if integer_attribute(node, "transA", 0) or factors != [1.0, 1.0]:
        return "it is a Gemm that scales, or transposes its activations"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return DenseLayer(node, x, weight, integer_attribute(node, "transB", 0) == 1, bias)


def _factor(node: ir.Node, name: str) -> float:
    given = node.attributes.get(name)
    return 1.0 if given is None else given.as_float()


def _reason_to_leave(layer: DenseLayer, patterns: list[str]) -> str | None:
    for pattern in patterns:
        if fnmatch.fnmatch(layer.name, pattern):
            return f"exclude names it: {layer.name} matches {pattern!r}"
    is_finite = np.isfinite(layer.matrix()).all()
    unload_mapped([layer.weight])
    return None if is_finite else "its weights are not finite"


def layers_by_input(layers: Iterable[DenseLayer]) -> list[list[DenseLayer]]:
    """Layers by the value that they read, in order of their first reader."""
    groups: dict[ir.Value, list[DenseLayer]] = {}
    for layer in layers:
        groups.setdefault(layer.x, []).append(layer)
    return list(groups.values())
