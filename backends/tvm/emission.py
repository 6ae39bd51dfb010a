"""The state of one lowering: the Relax function under construction and what it already holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from dechaff.ir import Module, ShapeData, constant_value, node_text

from .product_choice import Product, ProductChoice
from .sizes import PrimExpr, SizeTable, name_sizes

Expr = Any
"""An expression of Relax; TVM's packages carry no types."""

Array = np.ndarray[Any, Any]

WRITTEN = "dechaff.written"
"""Attribute of kernels that were written in TIR rather than derived from an expression."""


class LoweringError(Exception):
    """An emitter cannot lower this node; the message says why."""


class Emission:
    """Emits one module as one Relax function.

    Attributes:
        builder: Relax's block builder, inside a dataflow block.
        target: kind of the target, ``llvm`` or ``cuda``.
        arch: architecture of a GPU, such as ``sm_90``; empty for a CPU.
        opset: version of the standard operators.
        sizes: TVM's variables for the symbolic sizes.
        products: who computes matrix products with constant weights.
        dense_layers: these products, each with the leading sizes of x, by x and weights.
        shared: expressions that several nodes use, by what makes them the same.
    """

    def __init__(
        self,
        module: Module,
        target: str,
        arch: str = "",
        products: ProductChoice | None = None,
        builder: Any = None,
    ) -> None:
        self.module = module
        self.target = target
        self.arch = arch
        self.opset = module.opset
        self.builder = builder if builder is not None else relax.BlockBuilder()
        self.products = products if products is not None else ProductChoice()
        self.dense_layers: dict[Any, tuple[Product, list[PrimExpr]]] = {}
        self.shared: dict[Any, Expr] = {}
        self.sizes = SizeTable()
        self.data: ShapeData = name_sizes(module)
        self._tensors: dict[ir.Value, Expr] = {}
        self._arrays: dict[ir.Value, Array] = {}
        self._runtime_sizes: dict[ir.Value, list[PrimExpr]] = {}
        self._bound: set[str] = set()

    # -- what a node reads

    def tensor(self, value: ir.Value | None) -> Expr:
        """The Relax expression of a value: a constant and a size vector are made when asked for.

        Raises:
            LoweringError: an input that the operator needs is missing.
        """
        if value is None:
            raise LoweringError("an input is missing")
        if value not in self._tensors:
            self._tensors[value] = self._materialize(value)
        return self._tensors[value]

    def tensors(self, node: ir.Node) -> list[Expr]:
        """All inputs of a node that are given."""
        return [self.tensor(value) for value in node.inputs if value is not None]

    def array(self, value: ir.Value | None) -> Array | None:
        """The elements of a value that is known before run time, else None."""
        if value is None:
            return None
        if value in self._arrays:
            return self._arrays[value]
        constant = constant_value(value)
        return None if constant is None else constant.numpy()

    def set_array(self, value: ir.Value, array: Array) -> None:
        """Record that a value is known before run time after all."""
        self._arrays[value] = array

    def is_size_vector(self, value: ir.Value) -> bool:
        """Whether the value's elements are known as expressions over the symbolic sizes."""
        if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return False
        elements = self.data.evaluate(value)
        return elements is not None and None not in elements

    def size_list(self, value: ir.Value | None) -> list[PrimExpr]:
        """The elements of a 1-D integer value as sizes; what only the run tells is bound there."""
        if value is None:
            raise LoweringError("an input that gives sizes is missing")
        elements = self.data.evaluate(value)
        if elements is None or None in elements:
            found = self._bound_at_run_time(value)
            elements = elements if elements is not None else (None,) * len(found)
            return [
                self.sizes.size(known) if known is not None else variable
                for known, variable in zip(elements, found, strict=True)
            ]
        return [self.sizes.size(element) for element in elements if element is not None]

    def _bound_at_run_time(self, value: ir.Value) -> list[PrimExpr]:
        if value not in self._runtime_sizes:
            length = 1 if value.shape is None or len(value.shape) == 0 else value.shape[0]
            if not isinstance(length, int):
                raise LoweringError(f"the rank that {value.name} gives is not known")
            self._runtime_sizes[value] = self.read_sizes(self.tensor(value), length)
        return self._runtime_sizes[value]

    def read_sizes(self, tensor: Expr, count: int) -> list[PrimExpr]:
        """Read an integer tensor of ``count`` elements at run time, as new symbolic sizes."""
        flat = self.emit(relax.op.reshape(self.emit(relax.op.astype(tensor, "int64")), [count]))
        found = [self.sizes.new_variable() for _ in range(count)]
        self._bound |= {variable.name for variable in found}
        self.builder.match_cast(self.emit(relax.op.tensor_to_shape(flat)), relax.ShapeType(found))
        return found

    def shape(self, expr: Expr) -> list[PrimExpr]:
        """The sizes of an expression."""
        return list(expr.ty.shape.values)

    def dtype(self, expr: Expr) -> str:
        """The dtype of an expression, in numpy's spelling."""
        return str(expr.ty.dtype)

    def is_bound(self, size: PrimExpr) -> bool:
        """Whether everything the size is made of has a value by now."""
        free = tirx.analysis.undefined_vars(size)
        return all(variable.name in self._bound for variable in free)

    # -- what a node writes

    def emit(self, expr: Expr) -> Expr:
        """Bind an expression to a variable."""
        return self.builder.emit(expr)

    def emit_te(self, compute: Callable[..., Any], *args: Any, name: str = "") -> Expr:
        """Emit a tensor expression as a kernel of its own; fusion joins it with others later.

        Sizes that ``compute`` uses, the shape of its result too, are given to it as arguments:
        inside a kernel other variables stand for them.
        """
        hint = {"primfunc_name_hint": name} if name else {}
        return self.builder.emit_te(compute, *args, **hint)

    def call_kernel(
        self,
        kernel: Any,
        name: str,
        args: Sequence[Expr],
        outputs: Sequence[tuple[Sequence[PrimExpr], str]],
    ) -> Expr:
        """Call a kernel that is written in TIR.

        Args:
            kernel: a ``PrimFunc`` that takes the arguments, then its outputs, as buffers.
            name: what it is called in the generated code.
            args: the tensors it reads.
            outputs: shape and dtype of each tensor it writes.

        Returns:
            The output, or a tuple of several.
        """
        function = self.builder.add_func(kernel.with_attr(WRITTEN, True), name)
        types = [relax.TensorType(list(shape), dtype) for shape, dtype in outputs]
        return self.emit(
            relax.call_tir(function, list(args), types[0] if len(types) == 1 else types)
        )

    def match(self, expr: Expr, shape: Sequence[PrimExpr]) -> Expr:
        """The expression with that shape; checked at run time unless it is certain."""
        own = expr.ty.shape
        if own is not None and all(
            self.sizes.equal(a, b) for a, b in zip(own.values, shape, strict=True)
        ):
            return expr
        self._bound |= {size.name for size in shape if isinstance(size, tirx.Var)}
        return self.builder.match_cast(expr, relax.TensorType(list(shape), self.dtype(expr)))

    def bind(self, value: ir.Value, expr: Expr) -> None:
        """Give a value its expression, with the dtype and the shape that the IR knows."""
        if value.dtype is not None and self.dtype(expr) != dtype_text(value.dtype):
            expr = self.emit(relax.op.astype(expr, dtype_text(value.dtype)))
        if value.shape is not None:
            expr = self.match(expr, self.sizes.shape(value.shape))
        self._tensors[value] = expr

    def output_shape(self, node: ir.Node, index: int = 0) -> list[PrimExpr]:
        """The sizes of an output, as the IR names them.

        Raises:
            LoweringError: not even its rank is known.
        """
        shape = node.outputs[index].shape
        if shape is None:
            raise LoweringError("the rank of the output is not known")
        return self.sizes.shape(shape)

    def parameter(self, value: ir.Value) -> Expr:
        """The function parameter that stands for a graph input; it binds the sizes it names.

        Raises:
            LoweringError: the rank or the dtype of the input is not known.
        """
        if value.shape is None or value.dtype is None:
            raise LoweringError(f"the rank or the dtype of the input {value.name} is not known")
        shape = self.sizes.shape(value.shape)
        self._bound |= {size.name for size in shape if isinstance(size, tirx.Var)}
        variable = relax.Var(
            value.name or "input", relax.TensorType(shape, dtype_text(value.dtype))
        )
        self._tensors[value] = variable
        return variable

    def size_parameter(self, name: str, sizes: Sequence[PrimExpr]) -> Expr:
        """A function parameter that is told sizes that no tensor has, as a shape."""
        self._bound |= {size.name for size in sizes}
        return relax.Var(name, relax.ShapeType(list(sizes)))

    def constant(self, array: Array) -> Expr:
        """A constant tensor."""
        dense = np.ascontiguousarray(array).reshape(array.shape)
        return relax.const(dense, str(dense.dtype))

    def _materialize(self, value: ir.Value) -> Expr:
        array = self.array(value)
        if array is not None:
            return self.constant(array)
        if self.is_size_vector(value):
            return self._size_tensor(value)
        raise LoweringError(f"the value {value.name} has not been computed")

    def _size_tensor(self, value: ir.Value) -> Expr:
        """A size vector as a tensor: a kernel that writes its elements."""
        elements = [item for item in self.data.evaluate(value) or () if item is not None]
        dtype = dtype_text(value.dtype or ir.DataType.INT64)
        names = sorted({symbol.name for item in elements for symbol in item.free_symbols})
        shape = [] if value.shape is None else self.sizes.shape(value.shape)
        if not names:
            numbers = np.array([int(item) for item in elements], dtype)
            return self.constant(numbers.reshape([int(size) for size in shape]))
        values = [self.sizes.size(item) for item in elements]
        vector = self.emit_te(lambda given: _listed(given, dtype), values, name="sizes")
        return vector if len(shape) == 1 else self.emit(relax.op.reshape(vector, shape))


def _listed(values: Sequence[PrimExpr], dtype: str) -> Any:
    def element(index: Any) -> Any:
        chosen = values[-1]
        for place in range(len(values) - 2, -1, -1):
            chosen = tirx.Select(index == place, values[place], chosen)
        return chosen.astype(dtype)

    return te.compute((len(values),), element, name="sizes")


def dtype_text(dtype: ir.DataType) -> str:
    """TVM's name of a dtype, which is numpy's."""
    return "bool" if dtype is ir.DataType.BOOL else str(dtype.numpy())


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The value of an attribute, or the default that ONNX gives it."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def describe(node: ir.Node) -> str:
    """A node in text form, for messages."""
    return node_text(node)
