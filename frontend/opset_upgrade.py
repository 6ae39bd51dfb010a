"""Models of older ONNX opsets, brought to the working opset without touching their weights.

From opset 18 on, onnxscript's converter does it. Below, the table here holds every operator whose
meaning or signature changed between 11 and 18; the others only gained types and options.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript import version_converter

from dechaff.ir import WORKING_OPSET, ModelRejectedError, Module, constant_value, node_text

OLDEST_OPSET = 11
_TABLE_TARGET = 18
_CONVERTER_NEWEST = 25
_GROUP_NORMALIZATION_CHANGED = 21


class _NoCounterpartError(Exception):
    """A node means something that newer opsets cannot say."""


Adapter = Callable[[ir.Node], None]


def upgrade_opset(module: Module) -> None:
    """Convert a module to :data:`WORKING_OPSET` if it is older, and make its functions agree.

    Functions are inlined if they have to change. Shapes must have been inferred before.

    Raises:
        ModelRejectedError: lists every node that has no counterpart in newer opsets.
    """
    model, version = module.model, module.opset
    function_versions = {
        function.opset_imports.get("", version) for function in model.functions.values()
    }
    target = max(version, WORKING_OPSET, *function_versions)
    if version >= target and function_versions <= {version}:
        return
    _inline(module)
    _check_convertible(module, target)
    _apply_table(module)
    if version < target:
        model.graph.opset_imports[""] = max(version, _TABLE_TARGET)
        version_converter.convert_version(model, target)
    model.graph.opset_imports[""] = target
    for node in model.graph.all_nodes():
        node.version = None
    model.ir_version = max(model.ir_version, 10)


def _inline(module: Module) -> None:
    """Inline functions; each of their nodes remembers the opset it was written for."""
    model, version = module.model, module.opset
    for node in model.graph.all_nodes():
        node.version = version
    for function in model.functions.values():
        own = function.opset_imports.get("", version)
        for node in function.all_nodes():
            node.version = own
        function.opset_imports[""] = version
    if not model.functions:
        return
    try:
        common_passes.InlinePass()(model)
    except (ValueError, RuntimeError, ir.passes.InvariantError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ModelRejectedError(
            f"{module.source}: functions cannot be inlined: {reason}"
        ) from error
    common_passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]


def _check_convertible(module: Module, target: int) -> None:
    if target > _CONVERTER_NEWEST:
        raise ModelRejectedError(
            f"{module.source}: functions and graph are at different opsets, and nothing converts "
            f"them to {target} (the newest that can be converted to is {_CONVERTER_NEWEST})"
        )
    for node in module.nodes():
        if node.op_type == "GroupNormalization" and node.domain == "":
            source = node.inputs[0]
            is_old = (node.version or module.opset) < _GROUP_NORMALIZATION_CHANGED <= target
            channels = source.shape[1] if source is not None and source.shape is not None else None
            if is_old and not isinstance(channels, int):
                raise ModelRejectedError(
                    f"{module.source}: GroupNormalization of an unknown number of channels cannot "
                    f"be converted to opset {target}, in\n    {node_text(node)}"
                )


def _apply_table(module: Module) -> None:
    problems: list[str] = []
    for node in list(module.nodes()):
        if node.domain != "" or node.version is None or node.version >= _TABLE_TARGET:
            continue
        for changed_in, adapter in _ADAPTERS.get(node.op_type, ()):
            if node.version >= changed_in:
                continue
            try:
                adapter(node)
            except _NoCounterpartError as error:
                problems.append(f"{error}, in\n    {node_text(node)}")
        node.version = _TABLE_TARGET
    if problems:
        raise ModelRejectedError(
            f"{module.source}: {len(problems)} operation(s) cannot be converted to opset "
            f"{WORKING_OPSET}:\n" + "\n".join(problems)
        )


def _helper(
    node: ir.Node, operator: str, inputs: list[ir.Value | None], **attributes: Any
) -> ir.Node:
    """A node that helps to say what ``node`` said; it keeps the place that its name spells."""
    new = ir.node(operator, inputs, attributes=attributes)
    new.name = f"{node.name}_{operator}" if node.name else None
    new.metadata_props.update(node.metadata_props)
    new.version = _TABLE_TARGET
    return new


def _attribute_becomes_input(name: str, position: int) -> Adapter:
    def adapter(node: ir.Node) -> None:
        attribute = node.attributes.pop(name, None)
        if attribute is None or node.graph is None:
            return
        tensor = ir.tensor(list(attribute.as_ints()), dtype=ir.DataType.INT64)
        constant = _helper(node, "Constant", [], value=tensor)
        node.graph.insert_before(node, constant)
        if len(node.inputs) <= position:
            node.resize_inputs(position + 1)
        node.replace_input_with(position, constant.outputs[0])

    return adapter


def _softmax(node: ir.Node) -> None:
    """Before 13, everything from ``axis`` on was one axis."""
    source, graph = node.inputs[0], node.graph
    if source is None or graph is None:
        return
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    rank = None if source.shape is None else len(source.shape)
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    if axis == -1 or (rank is not None and axis == rank - 1):
        return
    sizes = _helper(node, "Shape", [source])
    flat = _helper(node, "Flatten", [source], axis=axis)
    softmax = _helper(node, node.op_type, [flat.outputs[0]], axis=-1)
    restored = _helper(node, "Reshape", [softmax.outputs[0], sizes.outputs[0]])
    new_nodes = [sizes, flat, softmax, restored]
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], new_nodes, node.outputs, restored.outputs
    )


def _drop_attribute(name: str) -> Adapter:
    def adapter(node: ir.Node) -> None:
        node.attributes.pop(name, None)

    return adapter


def _batch_normalization(node: ir.Node) -> None:
    """Before 14, asking for the statistics meant training."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise _NoCounterpartError("BatchNormalization in training mode")
    node.resize_outputs(1)


def _roi_align(node: ir.Node) -> None:
    node.attributes.setdefault(
        "coordinate_transformation_mode",
        ir.AttrString("coordinate_transformation_mode", "output_half_pixel"),
    )


def _resize(node: ir.Node) -> None:
    mode = node.attributes.get("coordinate_transformation_mode")
    if mode is not None and mode.as_string() == "tf_half_pixel_for_nn":
        raise _NoCounterpartError("Resize with tf_half_pixel_for_nn")
    for position, value in enumerate(node.inputs):
        tensor = constant_value(value)
        if position > 0 and tensor is not None and tensor.size == 0:
            node.replace_input_with(position, None)  # was how "not given" had to be said


def _number_of_outputs(node: ir.Node) -> None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)

_ADAPTERS: dict[str, tuple[tuple[int, Adapter], ...]] = {
    "Softmax": ((13, _softmax),),
    "LogSoftmax": ((13, _softmax),),
    "Hardmax": ((13, _softmax),),
    "Squeeze": ((13, _attribute_becomes_input("axes", 1)),),
    "Unsqueeze": ((13, _attribute_becomes_input("axes", 1)),),
    "ReduceSum": ((13, _attribute_becomes_input("axes", 1)),),
    "Split": ((13, _attribute_becomes_input("split", 1)), (18, _number_of_outputs)),
    "Dropout": ((12, _drop_attribute("ratio")),),
    "BatchNormalization": ((14, _batch_normalization),),
    "RoiAlign": ((16, _roi_align),),
    "Resize": ((13, _resize),),
    **{name: ((18, _attribute_becomes_input("axes", 1)),) for name in _REDUCTIONS},
}
"""By operator: the version that changed it, and what makes an older node mean the same."""
