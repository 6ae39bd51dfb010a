"""The pass ``fuse-layer-normalization``: spelled-out normalizations become one operator."""

from __future__ import annotations

import dataclasses
import math

import onnx_ir as ir

from dechaff.ir import Module, static_dim

from .matching import (
    axes_from,
    first_user,
    integer_attribute,
    is_op,
    is_private,
    made_by,
    only_consumer,
    other_operand,
    rank,
    scalar,
)
from .pass_base import Numerics, Pass
from .rewriter import Rewriter

_RULE = "fuse-layer-normalization"
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class FuseLayerNormalization(Pass):
    """Replace spelled-out normalizations by ``LayerNormalization`` and ``RMSNormalization``.

    ``(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * weight + bias`` over the last axis is
    the first; without the mean, and without a bias, it is the second. The square may be ``Pow``
    or ``Mul``, the division ``Div`` or ``Mul`` by a reciprocal, in any order of operands. A
    half-precision input that is cast to float32 before and back after the division is what both
    operators do by themselves, and the casts go.

    Before::

        before (float[B,S,4] x) => (float[B,S,4] y)
            <int64[1] last = {-1}, float two = {2}, float epsilon = {0.00001},
             float[4] weight = {1, 2, 3, 4}, float[4] bias = {0.5, 0, -0.5, 1}>
        {
            mean = ReduceMean <keepdims = 1> (x, last)
            centered = Sub (x, mean)
            squared = Pow (centered, two)
            variance = ReduceMean <keepdims = 1> (squared, last)
            shifted = Add (variance, epsilon)
            deviation = Sqrt (shifted)
            normalized = Div (centered, deviation)
            scaled = Mul (normalized, weight)
            y = Add (scaled, bias)
        }

    After::

        after (float[B,S,4] x) => (float[B,S,4] y)
            <float[4] weight = {1, 2, 3, 4}, float[4] bias = {0.5, 0, -0.5, 1}>
        {
            y = LayerNormalization <axis = -1, epsilon = 0.00001> (x, weight, bias)
        }
    """

    name = "fuse-layer-normalization"
    numerics = Numerics.REASSOCIATES
    after = ("canonicalize",)

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Start from each mean of squares."""
        for node in list(module.nodes()):
            if is_op(node, "ReduceMean"):
                core = _match_core(node, rewriter)
                if core is not None:
                    _fuse(core, rewriter)


@dataclasses.dataclass
class _Core:
    """The division by the root mean square, with or without the mean taken off first.

    Attributes:
        anchor: the mean of squares, where misses are reported.
        x: the input of the normalization.
        output: the normalized value, before the scale.
        epsilon: what is added to the mean square.
        centered: whether the mean is taken off.
        nodes: all nodes of the match so far.
    """

    anchor: ir.Node
    x: ir.Value
    output: ir.Value
    epsilon: float
    centered: bool
    nodes: list[ir.Node]


def _match_core(mean_square: ir.Node, rewriter: Rewriter) -> _Core | None:
    square = made_by(mean_square.inputs[0], "Pow", "Mul")
    base = _squared(square) if square is not None else None
    if square is None or base is None:
        return None
    shifted = first_user(mean_square.outputs[0], "Add")
    if shifted is None:
        return None
    epsilon = scalar(other_operand(shifted, mean_square.outputs[0]))
    inverse = _inverse_root(shifted)
    if inverse is None:
        return None
    root_nodes, root, is_inverse = inverse
    division = first_user(root, "Mul" if is_inverse else "Div")
    if division is None or not _divides(division, base, root, is_inverse):
        rewriter.miss(_RULE, mean_square, "its root does not divide the value that was squared")
        return None
    if epsilon is None:
        rewriter.miss(_RULE, mean_square, "what is added to it is not a scalar constant")
        return None
    if not _is_over_last_axis(mean_square):
        rewriter.miss(_RULE, mean_square, "the mean is not over the last axis alone")
        return None
    nodes = [square, mean_square, shifted, *root_nodes, division]
    core = _Core(mean_square, base, division.outputs[0], epsilon, False, nodes)
    return _with_mean(core)


def _squared(node: ir.Node) -> ir.Value | None:
    left, right = node.inputs[:2]
    is_square = left is right if node.op_type == "Mul" else scalar(right) == 2.0
    return left if is_square else None


def _inverse_root(shifted: ir.Node) -> tuple[list[ir.Node], ir.Value, bool] | None:
    """The root of ``shifted``: its nodes, its value, and whether that is 1 over the root."""
    power = first_user(shifted.outputs[0], "Pow")
    if power is not None and scalar(power.inputs[1]) in (0.5, -0.5):
        return [power], power.outputs[0], scalar(power.inputs[1]) == -0.5
    root = first_user(shifted.outputs[0], "Sqrt")
    if root is None:
        return None
    inverse = first_user(root.outputs[0], "Reciprocal", "Div")
    if inverse is not None and (is_op(inverse, "Reciprocal") or scalar(inverse.inputs[0]) == 1.0):
        return [root, inverse], inverse.outputs[0], True
    return [root], root.outputs[0], False


def _divides(node: ir.Node, base: ir.Value, root: ir.Value, is_inverse: bool) -> bool:
    if is_inverse:
        return is_op(node, "Mul") and other_operand(node, root) is base
    return is_op(node, "Div") and node.inputs[0] is base and node.inputs[1] is root


def _is_over_last_axis(node: ir.Node) -> bool:
    of_rank = rank(node.inputs[0])
    axes = axes_from(node.inputs[1], of_rank) if len(node.inputs) > 1 else None
    kept = integer_attribute(node, "keepdims", 1) == 1
    return kept and of_rank is not None and axes == (of_rank - 1,)


def _with_mean(core: _Core) -> _Core:
    """The match widened to ``x - mean(x)``, if that is what is normalized."""
    centered = made_by(core.x, "Sub")
    mean = made_by(centered.inputs[1], "ReduceMean") if centered is not None else None
    if centered is None or mean is None or mean.inputs[0] is not centered.inputs[0]:
        return core
    x = centered.inputs[0]
    if x is None or not _is_over_last_axis(mean):
        return core
    nodes = [mean, centered, *core.nodes]
    return dataclasses.replace(core, x=x, centered=True, nodes=nodes)


def _fuse(core: _Core, rewriter: Rewriter) -> None:
    core = _without_casts(core)
    scale = first_user(core.output, "Mul")
    weight = other_operand(scale, core.output) if scale is not None else None
    if scale is None or weight is None:
        rewriter.miss(_RULE, core.anchor, "no scale follows")
        return
    core.nodes.append(scale)
    shift = only_consumer(scale.outputs[0]) if core.centered else None
    bias = other_operand(shift, scale.outputs[0]) if is_op(shift, "Add") and shift else None
    problem = _find_problem(core, weight)
    if problem is not None:
        rewriter.miss(_RULE, core.anchor, problem)
        return
    if shift is None or bias is None or not _fits(bias, core.x):
        bias = None
    else:
        core.nodes.append(shift)
    _emit(core, weight, bias, rewriter)


def _without_casts(core: _Core) -> _Core:
    """The match widened by a cast to float32 before it and the cast back after it."""
    before, after = made_by(core.x, "Cast"), only_consumer(core.output)
    source = before.inputs[0] if before is not None else None
    if before is None or after is None or source is None or not is_op(after, "Cast"):
        return core
    if core.x.dtype is not ir.DataType.FLOAT or source.dtype not in _HALVES:
        return core
    if after.attributes["to"].as_int() != source.dtype:
        return core
    nodes = [*core.nodes, after]
    if is_private(core.x, nodes):
        nodes.insert(0, before)
    return dataclasses.replace(core, x=source, output=after.outputs[0], nodes=nodes)


def _find_problem(core: _Core, weight: ir.Value) -> str | None:
    if core.x.dtype not in _DTYPES:
        return "its dtype is not one in which the fused operator is as accurate"
    if not core.epsilon > 0.0 or not math.isfinite(core.epsilon):
        return "epsilon is not a positive number"
    if not _fits(weight, core.x):
        return "the scale is not a vector as long as the last axis"
    for node in core.nodes[:-1]:
        if not is_private(node.outputs[0], core.nodes):
            return "a value inside it is used elsewhere"
    return None


def _fits(vector: ir.Value, x: ir.Value) -> bool:
    """Whether it is a vector as long as the last axis of ``x``, of the same dtype."""
    if vector.shape is None or x.shape is None or len(vector.shape) != 1 or len(x.shape) == 0:
        return False
    length = static_dim(vector.shape[0])
    return length is not None and length == static_dim(x.shape[-1]) and vector.dtype == x.dtype


def _emit(core: _Core, weight: ir.Value, bias: ir.Value | None, rewriter: Rewriter) -> None:
    last = core.nodes[-1]
    attributes = {"axis": -1, "epsilon": core.epsilon}
    with rewriter.rewrite(_RULE, core.nodes, before=last) as builder:
        if core.centered:
            operands = [core.x, weight] if bias is None else [core.x, weight, bias]
            fused = builder.op("LayerNormalization", operands, attributes)
        else:
            fused = builder.op("RMSNormalization", [core.x, weight], attributes)
        builder.replace(last.outputs[0], fused)
