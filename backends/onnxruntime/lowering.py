"""From the dialect to operators that ONNX Runtime executes: one table, a row per operator.

A row names the dialect operator and how it is lowered. An operator without a row, or whose row
declines, is replaced by its reference function, so every module can be lowered.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from dechaff.backends.openvino.blocks import (
    lower_int4_gather_to_arithmetic,
    restore_blocks,
)
from dechaff.backends.openvino.grouped_attention import lower_to_grouped_attention
from dechaff.backends.openvino.rounding import place_roundings
from dechaff.ir import DOMAIN, Module, UsageError, attach_functions, infer_shapes
from dechaff.passes import Rewriter
from dechaff.passes.matching import is_op
from dechaff.passes.row_independence import rows_are_independent

from .blockwise_kernels import (
    drop_annotations,
    has_blockwise_weights,
    lower_blockwise_attention,
    lower_blockwise_function,
    lower_blockwise_gather,
    lower_blockwise_matmul,
    lower_blockwise_matmul_to_standard,
    lower_blockwise_restore,
)
from .contrib_kernels import CONTRIB_DOMAIN, lower_bias_gelu
from .leading_dimension import widen_rows
from .local_attention import lower_local_varlen_attention
from .masked_varlen_attention import lower_masked_varlen_attention
from .one_query_attention import lower_one_query_attention
from .packing_kernels import lower_pack
from .product_parts import split_product
from .quantized_kernels import (
    lower_quantize_per_tensor,
    lower_quantize_per_token,
    lower_quantized_matmul,
)
from .softcapped_attention import lower_softcapped_attention
from .static_kernels import add_bias_in_product, lower_static_product
from .varlen_attention import ATTENTION_KERNELS, AttentionKernel, lower_varlen_attention
from .varlen_functions import LOWERED_DOMAIN
from .weight_kernels import lower_int4_gather, lower_weight_product

Target = Literal["cpu", "openvino", "portable"]
TARGETS: tuple[Target, ...] = get_args(Target)

RUNTIME_KEY = "dechaff.runtime"
"""Metadata entry of a module that is lowered for another runtime than ONNX Runtime."""

ROWS_KEY = "dechaff.rows"
INDEPENDENT = "independent"
"""Metadata entry of a module whose batches may be run in groups of rows, and its value."""

_DEDUPLICATION = "onnx_ir.passes.common.initializer_deduplication"

NodeLowering = Callable[[ir.Node, Rewriter], bool]
"""Replaces a node and says True, or declines and says False."""


def _first_that_fits(*lowerings: NodeLowering) -> NodeLowering:
    return lambda node, rewriter: any(lowering(node, rewriter) for lowering in lowerings)


_RUNTIME_LOWERINGS: dict[str, NodeLowering] = {
    "BiasGelu": lower_bias_gelu,
    "BlockwiseGather": lower_blockwise_gather,
    "BlockwiseGelu": lower_blockwise_function,
    "BlockwiseLayerNormalization": lower_blockwise_function,
    "BlockwiseMatMul": lower_blockwise_matmul,
    "BlockwiseSoftmax": lower_blockwise_function,
    "BlockwiseVarlenAttention": lower_blockwise_attention,
    "Int4Gather": lower_int4_gather,
    "QuantizePerTensor": lower_quantize_per_tensor,
    "QuantizePerToken": lower_quantize_per_token,
    "QuantizedMatMul": lower_quantized_matmul,
}
"""To contrib operators; for the target ``cpu`` only."""

_SLOW_KERNELS: dict[str, tuple[NodeLowering, ...]] = {
    "Attention": (lower_softcapped_attention,),
    "MatMul": (lower_static_product, lower_weight_product),
}
"""Of standard operators that the runtime has faster kernels for in some cases; ``cpu`` only."""

_AFTER_OTHERS: dict[str, NodeLowering] = {
    "Add": add_bias_in_product,
    "MatMul": split_product,
}
"""Of standard operators, for what the lowerings above leave; ``cpu`` only."""

_STANDARD_LOWERINGS: dict[str, NodeLowering] = {
    "BlockwiseMatMul": lower_blockwise_matmul_to_standard,
    "BlockwiseRestore": lower_blockwise_restore,
    "LocalVarlenAttention": lower_local_varlen_attention,
    "MaskedVarlenAttention": lower_masked_varlen_attention,
    "Pack": lower_pack,
    "VarlenAttention": lower_varlen_attention,
}
"""To standard operators."""


_OPENVINO_LOWERINGS: dict[str, NodeLowering] = {
    "BlockwiseMatMul": lower_blockwise_matmul_to_standard,
    "BlockwiseRestore": lower_blockwise_restore,
    "Int4Gather": lower_int4_gather_to_arithmetic,
    "Pack": lower_pack,
    "VarlenAttention": _first_that_fits(lower_one_query_attention, lower_to_grouped_attention),
}
"""To those standard operators that OpenVINO has."""


def lowering_kinds(op_type: str) -> tuple[str, ...]:
    """How an operator is lowered: any of ``runtime``, ``standard``, ``openvino``."""
    names = {
        "openvino": set(_OPENVINO_LOWERINGS),
        "runtime": set(_RUNTIME_LOWERINGS),
        "standard": set(_STANDARD_LOWERINGS),
    }
    return tuple(kind for kind, known in names.items() if op_type in known)


def lower(
    module: Module, target: str = "cpu", *, attention: AttentionKernel = ATTENTION_KERNELS[0]
) -> Module:
    """A copy of the module in which no dialect operator is left.

    Args:
        module: any module; it is not changed.
        target: ``cpu`` may use ONNX Runtime's contrib operators where the installed runtime has
            the kernel; ``openvino`` emits standard operators that OpenVINO has, and marks the
            module for it, see :func:`start_session`; ``portable`` emits standard operators only.
        attention: how packed sequences of several lengths are attended to, ``rows`` or ``padded``;
            ``openvino`` has a way of its own.

    Raises:
        UsageError: there is no such target.
    """
    if target not in TARGETS:
        raise UsageError(f"there is no target {target!r}: known are {', '.join(TARGETS)}")
    lowered = module.clone()
    attach_functions(lowered)
    rewriter = Rewriter(lowered)
    rows = _lowerings(target, attention)
    for node in list(lowered.nodes()):
        row = rows.get(node.op_type) if node.domain == DOMAIN else None
        if row is not None:
            row(node, rewriter)
        elif target == "cpu" and node.domain == "":
            any(lowering(node, rewriter) for lowering in _SLOW_KERNELS.get(node.op_type, ()))
    for node in list(lowered.nodes()) if target == "cpu" else ():
        lowering = _AFTER_OTHERS.get(node.op_type) if node.domain == "" else None
        if lowering is not None:
            lowering(node, rewriter)
    if any(node.domain == CONTRIB_DOMAIN for node in lowered.nodes()):
        lowered.graph.opset_imports.setdefault(CONTRIB_DOMAIN, 1)
    attach_functions(lowered)  # of dialect operators that a lowering made
    _inline_dialect(lowered)
    if _runs_in_parts(module, target):
        lowered.model.metadata_props[ROWS_KEY] = INDEPENDENT
    if target == "cpu":
        widen_rows(Rewriter(lowered))
        common_passes.RemoveUnusedNodesPass()(lowered.model)
    if has_blockwise_weights(module):
        drop_annotations(lowered)
    if target == "openvino":
        restore_blocks(Rewriter(lowered))
        place_roundings(Rewriter(lowered))
        lowered.model.metadata_props[RUNTIME_KEY] = target
    return lowered


def _runs_in_parts(module: Module, target: str) -> bool:
    """Whether the rows of a batch may be run in parts, and doing so was measured to pay.

    In ONNX Runtime, where parts fit the caches better, it was for products of float32.
    """
    if target == "portable" or not rows_are_independent(module):
        return False
    return target == "openvino" or not any(is_op(node, "QuantizeLinear") for node in module.graph)


def _lowerings(target: str, attention: AttentionKernel) -> dict[str, NodeLowering]:
    if target == "openvino":
        return _OPENVINO_LOWERINGS
    by_kernel = functools.partial(lower_varlen_attention, kernel=attention)
    attend = _first_that_fits(lower_one_query_attention, by_kernel)
    contrib = _RUNTIME_LOWERINGS if target == "cpu" else {}
    return {**_STANDARD_LOWERINGS, "VarlenAttention": attend, **contrib}


@contextlib.contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    """Let a library log errors only, for a while."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _inline_dialect(module: Module) -> None:
    common_passes.RemoveUnusedNodesPass()(module.model)
    common_passes.RemoveUnusedFunctionsPass()(module.model)  # type: ignore[no-untyped-call]
    ours = (DOMAIN, LOWERED_DOMAIN)
    for function in module.model.functions.values():
        if function.domain not in ours:
            continue
        # Their operators mean the same in later versions; the inliner wants the model's.
        if function.opset_imports.get("", 0) < module.opset:
            function.opset_imports[""] = module.opset
        # The inliner counts up from 1 for each node of a name, and all without one share one.
        for node in function.all_nodes():
            node.name = node.name or node.outputs[0].name
    common_passes.InlinePass(lambda function: function.domain in ours)(module.model)
    common_passes.RemoveUnusedFunctionsPass()(module.model)  # type: ignore[no-untyped-call]
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(
        module.model
    )
    with _quiet(_DEDUPLICATION):  # it warns of every input with a default, which it leaves alone
        common_passes.DeduplicateInitializersPass(size_limit=64)(module.model)
    common_passes.CommonSubexpressionEliminationPass()(module.model)
    common_passes.RemoveUnusedNodesPass()(module.model)
    for domain in ours:
        module.graph.opset_imports.pop(domain, None)
    infer_shapes(module)
