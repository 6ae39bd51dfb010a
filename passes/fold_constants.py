"""The pass ``fold-constants``: computes before run time what does not depend on the inputs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from dechaff.ir import Module, constant_value

from .matching import sizes_of
from .pass_base import Numerics, Pass
from .reproducible_ops import asked_elements, is_same_everywhere
from .rewriter import Rewriter

_RULE = "fold-constants"
_LAZY_FROM_BYTES = 1 << 20
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


@dataclasses.dataclass(frozen=True)
class FoldConstantsOptions:
    """Options of ``fold-constants``.

    Attributes:
        max_bytes: how much all folds together may add to the size of the model's constants; what
            a fold replaces is subtracted.
    """

    max_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        """Check the bound.

        Raises:
            ValueError: it is negative.
        """
        if self.max_bytes < 0:
            raise ValueError(f"max_bytes expects a number of at least 0, got {self.max_bytes}")


class FoldConstants(Pass):
    """Compute before run time what no input can change.

    A node is folded if its operands are constants, or if it only asks for sizes that are known.
    Operators are folded whose result is the same to the bit in every implementation; random ones
    never are. The size of a result is known from shape inference *before* anything is computed: a
    model that asks for terabytes costs nothing. The model's constants may grow by ``max_bytes`` in
    all; a weight that only the folded node uses is replaced, whatever its size, so transposes of
    weights go, and tied weights are not stored twice.

    Before::

        before (float[B,2] x) => (float[B,3] y) <float[3,2] w = {1, 2, 3, 4, 5, 6}>
        {
            transposed = Transpose <perm = [1, 0]> (w)
            y = MatMul (x, transposed)
        }

    After::

        after (float[B,2] x) => (float[B,3] y) <float[2,3] w = {1, 3, 5, 2, 4, 6}>
        {
            y = MatMul (x, w)
        }
    """

    name = "fold-constants"
    numerics = Numerics.EXACT
    after = ("canonicalize",)
    options_type = FoldConstantsOptions

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Fold in order, so that whole constant chains go in one walk."""
        budget = _Budget(self.options.max_bytes)
        for node in list(module.nodes()):
            if node.domain != "" or len(node.outputs) != 1 or _is_constant_output(node):
                continue
            tensor = _known_sizes(node, rewriter, budget)
            if tensor is None:
                tensor = _evaluate(node, module, rewriter, budget)
            if tensor is not None:
                _replace(node, tensor, rewriter)


def _is_constant_output(node: ir.Node) -> bool:
    """Whether the node only carries a constant to where it is needed."""
    return node.op_type == "Constant" or (
        node.op_type == "Identity" and node.outputs[0].is_graph_output()
    )


@dataclasses.dataclass
class _Budget:
    """Bytes by which the constants may still grow."""

    left: int

    def take(self, growth: int) -> bool:
        """Spend ``growth`` (a negative one gives bytes back); False if there is too little."""
        if growth > self.left:
            return False
        self.left -= growth
        return True


def _known_sizes(node: ir.Node, rewriter: Rewriter, budget: _Budget) -> ir.TensorProtocol | None:
    """The elements of an integer vector that only holds sizes known before run time."""
    output = node.outputs[0]
    if output.dtype not in _INTEGERS or output.shape is None or len(output.shape) > 1:
        return None
    sizes = rewriter.shape_data.evaluate(output)
    if sizes is None or any(size is None or not size.is_Integer for size in sizes):
        return None
    dtype = np.dtype(np.int64 if output.dtype is ir.DataType.INT64 else np.int32)
    elements = [int(size) for size in sizes if size is not None]
    limit = 2 ** (8 * dtype.itemsize - 1)
    if any(not -limit <= element < limit for element in elements):
        return None
    if len(output.shape) == 0 and len(elements) != 1:
        return None
    if not budget.take(len(elements) * dtype.itemsize - _freed_bytes(node)):
        return None
    shape = (len(elements),) if len(output.shape) == 1 else ()
    return ir.tensor(np.array(elements, dtype=dtype).reshape(shape))


def _evaluate(
    node: ir.Node, module: Module, rewriter: Rewriter, budget: _Budget
) -> ir.TensorProtocol | None:
    """The result of a node of constants, unless it is too large or not the same everywhere."""
    operands = [constant_value(value) for value in node.inputs]
    given = [tensor for tensor in operands if tensor is not None]
    if not given or len(given) != sum(value is not None for value in node.inputs):
        return None
    if not is_same_everywhere(node, operands):
        return None
    size = _result_bytes(node)
    if size is None:
        rewriter.miss(_RULE, node, "the size of its result is not known before run time")
        return None
    size = max(size, asked_elements(node, operands))
    if not budget.take(size - _freed_bytes(node)):
        rewriter.miss(
            _RULE, node, f"its result has {size} bytes; max_bytes leaves {budget.left} to grow by"
        )
        return None
    if node.op_type == "Transpose" and size >= _LAZY_FROM_BYTES:
        return _lazy_transpose(node, given[0])
    try:
        return _run(node, module.opset, operands)
    except Exception as error:  # it covers less than runtimes do: GatherElements of 64 rows at most
        budget.take(_freed_bytes(node) - size)
        rewriter.miss(_RULE, node, f"ONNX's evaluator cannot compute it: {error}")
        return None


def _result_bytes(node: ir.Node) -> int | None:
    output = node.outputs[0]
    if output.shape is None or output.dtype is None or output.dtype is ir.DataType.STRING:
        return None
    sizes = [size for size in output.shape if isinstance(size, int)]
    if len(sizes) != len(output.shape):
        return None
    return math.ceil(math.prod(sizes) * output.dtype.bitwidth / 8)


def _freed_bytes(node: ir.Node) -> int:
    """Bytes of the initializers that nobody needs once the node is gone."""
    freed = 0
    for value in dict.fromkeys(value for value in node.inputs if value is not None):
        alone = all(user is node for user, _ in value.uses()) and not value.is_graph_output()
        tensor = constant_value(value)
        if alone and tensor is not None and value.is_initializer():
            freed += tensor.nbytes
    return freed


def _lazy_transpose(node: ir.Node, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A transposed weight that is made when it is read: whole models do not move into memory."""
    sizes = sizes_of(tensor)
    given = node.attributes.get("perm")
    perm = tuple(reversed(range(len(sizes)))) if given is None else tuple(given.as_ints())
    shape = ir.Shape([sizes[axis] for axis in perm])

    def transposed() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(tensor.numpy().transpose(perm)), dtype=tensor.dtype)

    return ir.LazyTensor(transposed, dtype=tensor.dtype, shape=shape)


def _run(
    node: ir.Node, opset: int, operands: list[ir.TensorProtocol | None]
) -> ir.TensorProtocol | None:
    """The result by ONNX's reference implementation."""
    names = ["" if tensor is None else f"input_{i}" for i, tensor in enumerate(operands)]
    attributes = {name: ir.to_proto(attribute) for name, attribute in node.attributes.items()}
    proto = onnx.NodeProto(op_type=node.op_type, input=names, output=["output"])
    proto.attribute.extend(attributes.values())
    graph = onnx.GraphProto(name="folding", node=[proto])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in names if name)
    graph.output.append(onnx.ValueInfoProto(name="output"))
    feeds: dict[str, Any] = {
        name: tensor.numpy()
        for name, tensor in zip(names, operands, strict=True)
        if tensor is not None
    }
    with np.errstate(all="ignore"):
        (result,) = ReferenceEvaluator(graph, {"": opset}).run(None, feeds)
    return ir.tensor(np.asarray(result), dtype=node.outputs[0].dtype)


def _replace(node: ir.Node, tensor: ir.TensorProtocol, rewriter: Rewriter) -> None:
    output = node.outputs[0]
    with rewriter.rewrite(_RULE, [node], before=node) as builder:
        builder.replace(output, builder.tensor(tensor, output.name or _RULE))
    operands, graph = list(node.inputs), node.graph
    if isinstance(graph, ir.Graph) and not output.is_graph_output():
        graph.remove(node, safe=True)
    for value in operands:
        _drop_if_unused(value)


def _drop_if_unused(value: ir.Value | None) -> None:
    if value is None or not value.is_initializer() or value.is_graph_input():
        return
    if value.uses() or value.is_graph_output() or value.graph is None or value.name is None:
        return
    value.graph.initializers.pop(value.name)
