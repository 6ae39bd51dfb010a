"""The ``dechaff`` dialect: operators that ONNX lacks, each declared once, as data.

An operator is a schema, its reference semantics as an ONNX function of standard operators, a shape
rule and a cost rule. Because the function travels with the model, the graph after any pass is a
runnable ONNX model, and a backend without a kernel for the operator falls back to the function.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import onnx
import onnx.parser
import onnx_ir as ir
import sympy

from .errors import ModelRejectedError, UsageError
from .module import Module

DOMAIN = "dechaff"
VERSION = 1

Dims = tuple[sympy.Expr, ...]
"""A shape as sympy expressions; a size known before run time is a ``sympy.Integer``."""

ShapeRule = Callable[[Sequence[Dims | None], Mapping[str, ir.Attr]], Sequence[Dims]]
CostRule = Callable[[Sequence[Dims | None], Mapping[str, ir.Attr]], sympy.Expr]
DtypeRule = Callable[[Sequence[ir.DataType | None]], Sequence[ir.DataType | None]]


def known_dims(shapes: Sequence[Dims | None], index: int) -> Dims:
    """The shape of an input, for shape and cost rules.

    Raises:
        ValueError: it is not known; the output's is then not either.
    """
    dims = shapes[index]
    if dims is None:
        raise ValueError(f"input {index} has no known shape")
    return dims


@dataclasses.dataclass(frozen=True)
class DialectOp:
    """One operator of the dialect.

    Attributes:
        name: operator name in ONNX style (``VarlenAttention``).
        documentation: what it computes: shapes, dtypes, source of the method.
        function: reference semantics, an ONNX function in text form in the domain ``dechaff``.
        shape_rule: output shapes from input shapes and attributes.
        flops: floating-point operations, from input shapes and attributes.
        dtype_rule: output dtypes from input dtypes.
        optional_inputs: how many trailing inputs may be missing.
    """

    name: str
    documentation: str
    function: str
    shape_rule: ShapeRule
    flops: CostRule
    dtype_rule: DtypeRule
    optional_inputs: int = 0

    @functools.cached_property
    def function_proto(self) -> onnx.FunctionProto:
        """The reference semantics as a protobuf message."""
        return onnx.parser.parse_function(self.function)

    @property
    def num_inputs(self) -> tuple[int, int]:
        """Fewest and most inputs a node may have."""
        most = len(self.function_proto.input)
        return most - self.optional_inputs, most

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes a node must carry."""
        return tuple(self.function_proto.attribute)

    def ir_function(self) -> ir.Function:
        """A fresh copy of the reference function, ready to be added to a model."""
        return ir.serde.deserialize_function(self.function_proto)


_OPS: dict[str, DialectOp] = {}


def register(op: DialectOp) -> DialectOp:
    """Add an operator to the dialect. Called once per operator, where it is declared."""
    if op.name in _OPS:
        raise UsageError(f"the dialect already has an operator {op.name!r}")
    _OPS[op.name] = op
    return op


def dialect_op(name: str) -> DialectOp | None:
    """The declaration of a dialect operator, or None if there is none of that name."""
    return _OPS.get(name)


def dialect_ops() -> tuple[DialectOp, ...]:
    """All operators of the dialect, by name."""
    return tuple(_OPS[name] for name in sorted(_OPS))


def declaration_of(node: ir.Node) -> DialectOp | None:
    """The declaration behind a node, or None if the node is not of the dialect.

    Raises:
        ModelRejectedError: the node claims the dialect's domain but no such operator exists.
    """
    if node.domain != DOMAIN:
        return None
    op = dialect_op(node.op_type)
    if op is None:
        known = ", ".join(sorted(_OPS))
        raise ModelRejectedError(
            f"node {node.name!r}: the dialect has no operator {node.op_type!r}; it has {known}"
        )
    return op


def attach_functions(module: Module) -> None:
    """Make the module self-contained: add the function of every dialect operator in use."""
    used = {node.op_type for node in module.nodes() if node.domain == DOMAIN}
    if not used:
        return
    pending = sorted(used)
    while pending:
        op = dialect_op(pending.pop())
        if op is None:
            continue
        function = op.ir_function()
        if function.identifier() in module.model.functions:
            continue
        module.model.functions[function.identifier()] = function
        pending += [node.op_type for node in function if node.domain == DOMAIN]
    module.graph.opset_imports[DOMAIN] = VERSION
