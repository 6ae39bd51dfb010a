"""The pass ``convert-precision``: computes in float16 or bfloat16 where that is safe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, constant_value

from .matching import sizes_of
from .pass_base import Numerics, Pass
from .rewriter import GraphBuilder, Rewriter

_RULE = "convert-precision"
_DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_LARGEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: 3.3895313892515355e38}
_LAZY_FROM_BYTES = 1 << 20
_SOFTMAX_PRECISION = int(ir.DataType.FLOAT)

_NEEDS_RANGE = frozenset(
    {"CumSum", "Exp", "Log", "LpNormalization", "Pow", "Range", "Reciprocal", "Sqrt"}
    | {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd"}
    | {"ReduceSum", "ReduceSumSquare", "LogSoftmax", "Softmax"}
)
"""Sums of many, squares and exponentials: they overflow or lose what they are computed for."""

_NEEDS_ARGUMENTS = frozenset({"Cos", "Sin"})
"""Angles: an error in a large argument is as large in the result. Positions are such arguments."""

_MIXES = frozenset({"Attention", "Conv", "Einsum", "Gemm", "MatMul"})
"""Products over an axis: the argument of an angle is not sought behind one."""

_HAS_OWN_TYPES = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear"})
"""Operators whose types are said by an attribute, or whose scales must stay as they are."""


@dataclasses.dataclass(frozen=True)
class ConvertPrecisionOptions:
    """Options of ``convert-precision``.

    Attributes:
        dtype: ``float16`` or ``bfloat16``.
    """

    dtype: str = "float16"

    def __post_init__(self) -> None:
        """Check the dtype.

        Raises:
            ValueError: it is neither of the two.
        """
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype expects {' or '.join(_DTYPES)}, got {self.dtype!r}")


class ConvertPrecision(Pass):
    """Compute in a 16-bit floating-point type; inputs and outputs keep theirs.

    Weights are stored in the 16-bit type. In float32 stay: sums over many elements, exponentials
    and roots that stand outside a whole operator, up to the quotient they are made for, so that a
    small number added below a root is not lost; angles and what they are computed from, which are
    positions in the thousands; what subgraphs read; and quantization. ``LayerNormalization``
    and ``RMSNormalization`` compute their statistics in float32 by definition, and ``Attention``
    its softmax, by ``softmax_precision``. Constants beyond the range of float16, such as the
    smallest float32 in a mask, become its largest finite number, never an infinity.

    Before::

        before (float[T,4] x) => (float[T,2] y) <float[4,2] w = {0.5, -1, 0.25, 2, 1, 0, 3, -2}>
        {
            z = MatMul (x, w)
            y = Softmax <axis = -1> (z)
        }

    After (the text form writes float16 as the integer of the same bits)::

        after (float[T,4] x) => (float[T,2] y)
        <float16[4,2] w = {14336, 48128, 13312, 16384, 15360, 0, 16896, 49152}>
        {
            x_half = Cast <to = 10> (x)
            z_half = MatMul (x_half, w)
            z = Cast <to = 1> (z_half)
            y = Softmax <axis = -1> (z)
        }

    Source: mixed-precision inference as in "Mixed Precision Training" (Micikevicius et al., ICLR
    2018, section 3.3: products in half precision, reductions in single).
    """

    name = "convert-precision"
    numerics = Numerics.APPROXIMATE
    after = (
        "fuse-attention",
        "fuse-bias-gelu",
        "fuse-layer-normalization",
        "fuse-skip-normalization",
        "remove-padding",
    )
    options_type = ConvertPrecisionOptions

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Walk the main graph in order; each operator finds its operands converted already."""
        exact = set(_nodes_of_angles(module))
        converter = _Converter(_DTYPES[self.options.dtype], rewriter)
        for node in list(module.graph):
            if not _computes_in_float32(node):
                continue
            if node in exact or _needs_float32(node, exact):
                exact.add(node)
            elif _is_convertible(node):
                converter.convert(node)
        for name in converter.clamped:
            rewriter.note(
                f"{_RULE}: {name} held numbers beyond {self.options.dtype}; "
                "they are its largest finite ones now"
            )


def _nodes_of_angles(module: Module) -> Iterator[ir.Node]:
    """Nodes that compute arguments of angles, back to the nearest product with weights."""
    pending = [node for node in module.graph if node.op_type in _NEEDS_ARGUMENTS]
    seen: set[ir.Node] = set()
    while pending:
        node = pending.pop()
        if node in seen or (node.op_type in _MIXES and _has_weight(node)):
            continue
        seen.add(node)
        yield node
        makers = [value.producer() for value in node.inputs if value is not None]
        pending += [maker for maker in makers if maker is not None]


def _has_weight(node: ir.Node) -> bool:
    """Whether the product is one with a matrix of weights; that of frequencies is a vector's."""
    weights = [constant_value(value) for value in node.inputs]
    return any(
        weight is not None and sum(size > 1 for size in sizes_of(weight)) > 1 for weight in weights
    )


def _computes_in_float32(node: ir.Node) -> bool:
    return any(_is_float32(value) for value in node.outputs) and any(
        _is_float32(value) for value in node.inputs
    )


def _needs_float32(node: ir.Node, exact: set[ir.Node]) -> bool:
    """Whether the node needs range or precision, or goes on with what did."""
    if node.op_type in _NEEDS_RANGE:
        return True
    if node.op_type in _MIXES:
        return False
    varying = [v for v in node.inputs if _is_float32(v) and constant_value(v) is None]
    kept = [value is not None and value.producer() in exact for value in varying]
    return any(kept) and (all(kept) or node.op_type == "Div")


def _is_convertible(node: ir.Node) -> bool:
    if node.domain not in ("", DOMAIN) or node.op_type in _HAS_OWN_TYPES:
        return False
    return all(
        attribute.type is not ir.AttributeType.GRAPH for attribute in node.attributes.values()
    )


def _is_float32(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is ir.DataType.FLOAT


class _Converter:
    """Gives nodes a 16-bit twin, and remembers the 16-bit form of each value.

    Attributes:
        clamped: names of constants that did not fit the type.
    """

    def __init__(self, dtype: ir.DataType, rewriter: Rewriter) -> None:
        self._dtype = dtype
        self._rewriter = rewriter
        self._converted: dict[ir.Value, ir.Value] = {}
        self.clamped: list[str] = []

    def convert(self, node: ir.Node) -> None:
        """Put the twin in the node's place, and casts back to float32 for those who read it."""
        with self._rewriter.rewrite(_RULE, [node]) as builder:
            operands = [self._operand(value, builder) for value in node.inputs]
            attributes = {name: item.value for name, item in node.attributes.items()}
            if node.op_type == "Attention":
                attributes["softmax_precision"] = _SOFTMAX_PRECISION
            first = builder.op(
                node.op_type,
                operands,
                attributes,
                domain=node.domain,
                num_outputs=len(node.outputs),
                name=node.name,
            )
            twin = first.producer()
            assert twin is not None  # builder.op made it
            for old, new in zip(node.outputs, twin.outputs, strict=True):
                self._hand_over(old, new, builder)

    def _hand_over(self, old: ir.Value, new: ir.Value, builder: GraphBuilder) -> None:
        new.shape = old.shape if new.shape is None else new.shape
        if not _is_float32(old):
            builder.replace(old, new)
            return
        new.dtype = self._dtype
        back = builder.op("Cast", [new], {"to": int(ir.DataType.FLOAT)})
        builder.replace(old, back)
        self._converted[back] = new

    def _operand(self, value: ir.Value | None, builder: GraphBuilder) -> ir.Value | None:
        if value is None or not _is_float32(value):
            return value
        if value not in self._converted:
            self._converted[value] = self._as_half(value, builder)
        return self._converted[value]

    def _as_half(self, value: ir.Value, builder: GraphBuilder) -> ir.Value:
        tensor = constant_value(value)
        if tensor is None:
            return builder.op("Cast", [value], {"to": int(self._dtype)})
        if _largest(tensor) > _LARGEST[self._dtype]:
            self.clamped.append(value.name or "a constant")
        return builder.tensor(_narrowed(tensor, self._dtype), value.name or "constant")


def _largest(tensor: ir.TensorProtocol) -> float:
    """The largest finite magnitude in a tensor; infinities stay infinities in every type."""
    array = tensor.numpy()
    finite = array[np.isfinite(array)]
    return float(np.abs(finite).max(initial=0.0))


def _narrowed(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.TensorProtocol:
    """The tensor in a 16-bit type; a large one is converted when it is read."""
    limit = np.float32(_LARGEST[dtype])

    def converted() -> ir.TensorProtocol:
        array = tensor.numpy()
        clipped = np.where(np.isfinite(array), np.clip(array, -limit, limit), array)
        return ir.tensor(clipped.astype(dtype.numpy()), dtype=dtype)

    if tensor.nbytes < _LAZY_FROM_BYTES:
        return converted()
    return ir.LazyTensor(converted, dtype=dtype, shape=ir.Shape(sizes_of(tensor)))
