"""From the IR to one Relax function, node by node."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from tvm import relax

from dechaff.ir import DOMAIN, DechaffError, Module, attach_functions, node_text

from .dense_attention import pack_dense_attention
from .emission import Emission, Expr, LoweringError
from .emitters import DIALECT, SIZES_ONLY, STANDARD, Emitter
from .kernel_table import kernel_for
from .product_choice import Product, ProductChoice
from .quick_inspection import quicken_inspection
from .token_counting import counted_layouts, emit_token_counts, token_bounds
from .token_positions import look_positions_up

_EMITTER_ERRORS = (LoweringError, RuntimeError, TypeError, ValueError, AssertionError)
"""What an emitter, or TVM called by it, raises on a node that it cannot lower."""

ENTRY = "main"
"""The name of the function that runs the model."""


class LoweringRejectedError(DechaffError):
    """The model has operators that the TVM backend does not lower."""


@dataclasses.dataclass(frozen=True)
class RelaxModule:
    """A model as Relax.

    Attributes:
        module: the ``IRModule``; its function ``main`` takes the graph inputs in order, and gives
            the outputs as a tuple.
        kernels: how many nodes run by hand-written kernels, by operator.
        products: dense layers with constant weights, each with the leading sizes of x.
    """

    module: Any
    kernels: dict[str, int]
    products: tuple[tuple[Product, Sequence[Any]], ...]


def to_relax(
    module: Module, target: str, arch: str = "", products: ProductChoice | None = None
) -> RelaxModule:
    """Lower a module for a kind of target.

    Args:
        module: any module; it is not changed.
        target: ``llvm`` or ``cuda``.
        arch: the architecture of a GPU, such as ``sm_90``.
        products: who computes matrix products with constant weights.

    A packed model for a GPU has a second function, ``count_tokens``, and ``main`` takes a shape
    after its inputs: how many rows to make room for in each layout. See ``token_counting.py``.

    Raises:
        LoweringRejectedError: some operators are not lowered; the message lists all of them.
    """
    quicken_inspection()
    prepared = _prepared(module, target)
    check_operators(prepared)
    emission = Emission(prepared, target, arch, products)
    kernels: Counter[str] = Counter()
    try:
        parameters = [emission.parameter(value) for value in prepared.graph.inputs]
        layouts = counted_layouts(prepared) if target == "cuda" else []
        if layouts:
            emit_token_counts(emission, prepared, layouts, _emit_node)
            tokens = [emission.output_shape(layout)[0] for layout in layouts]
            parameters.append(emission.size_parameter("token_room", tokens))
        bounds = token_bounds(emission, layouts)
    except LoweringError as error:
        raise LoweringRejectedError(f"{module.source}: {error}") from error
    attributes = {"tir_var_upper_bound": bounds} if bounds else {}
    with emission.builder.function(ENTRY, parameters, attributes):
        with emission.builder.dataflow():
            for node in prepared.graph:
                if _emit_node(emission, node):
                    kernels[node.op_type] += 1
            results = [emission.tensor(value) for value in prepared.graph.outputs]
            output = emission.builder.emit_output(relax.Tuple(results))
        emission.builder.emit_func_output(output)
    layers = tuple(emission.dense_layers.values())
    return RelaxModule(emission.builder.finalize(), dict(kernels), layers)


def _prepared(module: Module, target: str) -> Module:
    """A copy in which dialect operators without an emitter are their reference functions."""
    copy = module.clone()
    attach_functions(copy)
    for function in copy.model.functions.values():
        if function.domain == DOMAIN:  # their operators mean the same in later versions
            function.opset_imports[""] = max(copy.opset, function.opset_imports.get("", 0))
    common_passes.InlinePass(
        lambda function: not (function.domain == DOMAIN and function.name in DIALECT)
    )(copy.model)
    common_passes.RemoveUnusedNodesPass()(copy.model)
    look_positions_up(copy)
    if target == "cuda":
        pack_dense_attention(copy)
    return copy


def check_operators(module: Module) -> None:
    """Nothing, if every operator has an emitter.

    Raises:
        LoweringRejectedError: some have none; the message lists all, each with a node.
    """
    missing: dict[str, ir.Node] = {}
    for node in module.graph:
        if emitter_of(node) is None and not (node.domain == "" and node.op_type in SIZES_ONLY):
            missing.setdefault(f"{node.domain}.{node.op_type}".lstrip("."), node)
    if missing:
        where = "; ".join(f"{name}, as in {node_text(node)}" for name, node in missing.items())
        raise LoweringRejectedError(
            f"{module.source}: the TVM backend lowers no {where}; "
            "target cpu runs the model by ONNX Runtime"
        )


def emitter_of(node: ir.Node) -> Emitter | None:
    """The emitter of a node's operator, or None."""
    table = {"": STANDARD, DOMAIN: DIALECT}.get(node.domain, {})
    return table.get(node.op_type)


def _emit_node(emission: Emission, node: ir.Node) -> bool:
    """Emit one node, and say whether a hand-written kernel was taken."""
    if node.domain == "" and node.op_type in SIZES_ONLY:
        return False
    if all(emission.is_size_vector(output) for output in node.outputs):
        return False  # made where it is read as a tensor
    provider = kernel_for(emission.target, node.op_type)
    try:
        result = provider(emission, node) if provider is not None else None
        by_kernel = result is not None
        if result is None:
            emitter = emitter_of(node)
            assert emitter is not None  # checked before
            result = emitter(emission, node)
        results: Sequence[Expr] = result if isinstance(result, list | tuple) else [result]
        for output, expr in zip(node.outputs, results, strict=False):
            if output.name:
                emission.bind(output, emission.emit(expr))
    except _EMITTER_ERRORS as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise LoweringRejectedError(
            f"{emission.module.source}: {node_text(node)}: cannot be lowered for TVM: {reason}"
        ) from error
    return by_kernel
