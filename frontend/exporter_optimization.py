"""What the exporter does to a graph by default, in time that grows with the graph and no faster.

``torch.onnx.export(optimize=True)`` calls ``onnxscript.optimizer.optimize_ir``. One of its rules,
which makes a ``Split`` of two ``Slice``, has two results, and for such a rule the matcher lists the
whole graph at every node: a third of the time of export at 48 layers of BERT, and most of it at 96.
The steps here are the same without that rule.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import onnxscript.rewriter
from onnxscript.optimizer import _constant_folding
from onnxscript.rewriter import onnx_fusions, pattern

_SWEEPS = 2


def optimize_export(model: ir.Model) -> None:
    """Inline, fold, rewrite and tidy a model as the exporter left it; in place."""
    rules = [rule for rule in onnxscript.rewriter._DEFAULT_REWRITE_RULES if _is_local(rule)]
    common_passes.InlinePass()(model)
    for _ in range(_SWEEPS):
        folded = _constant_folding.FoldConstantsPass(
            shape_inference=True,
            input_size_limit=_constant_folding.DEFAULT_CONSTANT_FOLD_INPUT_SIZE_LIMIT,
            output_size_limit=_constant_folding.DEFAULT_CONSTANT_FOLD_OUTPUT_SIZE_LIMIT,
        )(model)
        rewritten = onnxscript.rewriter.RewritePass(rules)(model)
        _remove_unused(model)
        if not folded.modified and not rewritten.modified:
            break
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common_passes.LiftSubgraphInitializersToMainGraphPass()(model)
    common_passes.DeduplicateInitializersPass()(model)
    common_passes.CommonSubexpressionEliminationPass()(model)
    common_passes.OutputFixPass()(model)
    common_passes.NameFixPass()(model)
    onnx_fusions.fuse(model)


def _is_local(rule: pattern.RewriteRule) -> bool:
    return bool(rule._target_pattern.has_single_output_node)


def _remove_unused(model: ir.Model) -> None:
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common_passes.RemoveUnusedOpsetsPass()(model)
