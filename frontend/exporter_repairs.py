"""Repairs of what exporters are known to write wrongly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from dechaff.ir import Module, infer_shapes

_NUM_INPUTS_WITHOUT_POSITIONS = 3


def repair_exports(module: Module) -> None:
    """Make operations valid that an exporter wrote against their definition.

    Rotary embeddings: onnxscript's fusion, which ``torch.onnx.export`` runs, hands over cosines and
    sines of shape ``[1, S, d]`` where the operator wants one set per row, ``[B, S, d]``.

    Attention: a mask that is the same for every query must be written out, ``[.., Sq, Sk]``.

    Choices between truth values: ONNX Runtime has no kernel for ``Where`` of booleans.
    """
    changed = [repair(node) for node in list(module.nodes()) for repair in _REPAIRS]
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


def _write_out_mask(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type != "Attention" or len(node.inputs) < 4:
        return False
    query, mask = node.inputs[0], node.inputs[3]
    if query is None or mask is None or query.shape is None or mask.shape is None:
        return False
    axis = len(query.shape) - 2
    if len(mask.shape) < 2 or mask.shape[-2] != 1 or query.shape[axis] == 1:
        return False
    length = _before(node, ir.node("Shape", [query], attributes={"start": axis, "end": axis + 1}))
    ones = [np.ones(count, np.int64) for count in (len(mask.shape) - 2, 1)]
    before, behind = (_before(node, _constant(array)) for array in ones)
    parts = [before, length, behind]
    sizes = _before(node, ir.node("Concat", parts, attributes={"axis": 0}))
    node.replace_input_with(3, _before(node, ir.node("Expand", [mask, sizes])))
    return True


def _choose_by_logic(node: ir.Node) -> bool:
    """``Where (c, a, b)`` of booleans as ``(c and a) or (not c and b)``."""
    if node.domain != "" or node.op_type != "Where":
        return False
    if any(value is None or value.dtype is not ir.DataType.BOOL for value in node.inputs):
        return False
    condition, if_true, if_false = node.inputs
    first = _before(node, ir.node("And", [condition, if_true]))
    opposite = _before(node, ir.node("Not", [condition]))
    second = _before(node, ir.node("And", [opposite, if_false]))
    either = _before(node, ir.node("Or", [first, second]))
    result = node.outputs[0]
    either.name, either.shape, either.type = result.name, result.shape, result.type
    ir.convenience.replace_all_uses_with(result, either, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True


def _constant(array: npt.NDArray[np.int64]) -> ir.Node:
    return ir.node("Constant", [], attributes={"value": ir.tensor(array)})


def _before(node: ir.Node, new: ir.Node) -> ir.Value:
    new.name = f"{node.name}_{new.op_type}" if node.name else None
    new.metadata_props.update(node.metadata_props)
    assert node.graph is not None
    node.graph.insert_before(node, new)
    return new.outputs[0]


_REPAIRS = (_expand_caches, _write_out_mask, _choose_by_logic)
