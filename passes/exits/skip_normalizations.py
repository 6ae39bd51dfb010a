"""Skip normalizations that give the state of a layer and the next one's input in one operator."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import DOMAIN, Module
from dechaff.passes.rewriter import Rewriter

_NORMALIZATIONS = {
    "BiasSkipLayerNormalization": "LayerNormalization",
    "SkipLayerNormalization": "LayerNormalization",
    "SkipRMSNormalization": "RMSNormalization",
}


def split_skip_normalizations(module: Module, rewriter: Rewriter) -> None:
    """Take apart those whose sum is read: it is the state, and the normalization comes after."""
    for node in list(module.graph):
        if node.domain == DOMAIN and node.op_type in _NORMALIZATIONS and _is_read(node.outputs[1]):
            _split(node, rewriter)


def _is_read(value: ir.Value) -> bool:
    return value.is_graph_output() or any(True for _ in value.uses())


def _split(node: ir.Node, rewriter: Rewriter) -> None:
    x, skip, *parameters = node.inputs
    with rewriter.rewrite("split-skip-normalization", [node]) as builder:
        has_bias = node.op_type == "BiasSkipLayerNormalization"
        biased = builder.op("Add", [x, parameters.pop()]) if has_bias else x
        state = builder.op("Add", [biased, skip])
        epsilon = {"epsilon": node.attributes["epsilon"], "axis": -1}
        normalized = builder.op(_NORMALIZATIONS[node.op_type], [state, *parameters], epsilon)
        builder.replace(node.outputs[0], normalized)
        builder.replace(node.outputs[1], state)
