"""Repairs of what exporters are known to write wrongly."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import Module, infer_shapes

_NUM_INPUTS_WITHOUT_POSITIONS = 3


def repair_exports(module: Module) -> None:
    """Make operations valid that an exporter wrote against their definition.

    Rotary embeddings: onnxscript's fusion, which ``torch.onnx.export`` runs, hands over cosines and
    sines of shape ``[1, S, d]`` where the operator wants one set per row, ``[B, S, d]``.
    """
    changed = [_expand_caches(node) for node in list(module.nodes())]
    if any(changed):
        infer_shapes(module)


def _expand_caches(node: ir.Node) -> bool:
    is_rotary = node.domain == "" and node.op_type == "RotaryEmbedding"
    if not is_rotary or any(value is not None for value in node.inputs[3:]):
        return False
    changed = False
    for position in range(1, _NUM_INPUTS_WITHOUT_POSITIONS):
        changed |= _expand_cache(node, position)
    return changed


def _expand_cache(node: ir.Node, position: int) -> bool:
    source, cache = node.inputs[0], node.inputs[position]
    if source is None or cache is None or source.shape is None or cache.shape is None:
        return False
    if len(cache.shape) != 3 or cache.shape[0] != 1 or source.shape[0] == 1:
        return False
    batch = _before(node, ir.node("Shape", [source], attributes={"start": 0, "end": 1}))
    rest = _before(node, ir.node("Shape", [cache], attributes={"start": 1}))
    sizes = _before(node, ir.node("Concat", [batch, rest], attributes={"axis": 0}))
    node.replace_input_with(position, _before(node, ir.node("Expand", [cache, sizes])))
    return True


def _before(node: ir.Node, new: ir.Node) -> ir.Value:
    new.name = f"{node.name}_{new.op_type}" if node.name else None
    new.metadata_props.update(node.metadata_props)
    assert node.graph is not None
    node.graph.insert_before(node, new)
    return new.outputs[0]
