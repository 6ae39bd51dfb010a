"""The pass ``fuse-skip-normalization``: a residual and the normalization after it become one."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, constant_value, shape_expressions

from .fuse_bias_gelu import dense_and_bias
from .matching import float_attribute, integer_attribute, is_op, is_private, made_by, rank
from .pass_base import Numerics, Pass
from .rewriter import Rewriter

_RULE = "fuse-skip-normalization"
_DEFAULT_EPSILON = 1e-5


class FuseSkipNormalization(Pass):
    """Fuse a residual addition with the normalization that reads it, and the bias before it.

    The sum is given out as well: in a pre-norm Transformer it is the next residual. Where nothing
    else reads it, kernels need not write it.

    Before::

        before (float[B,S,4] x, float[B,S,4] skip) => (float[B,S,4] y)
            <float[4] dense_bias = {1, 2, 3, 4}, float[4] weight = {1, 1, 1, 2},
             float[4] bias = {0.5, 0, -0.5, 1}>
        {
            biased = Add (x, dense_bias)
            sum = Add (biased, skip)
            y = LayerNormalization <axis = -1, epsilon = 0.00001> (sum, weight, bias)
        }

    After::

        after (float[B,S,4] x, float[B,S,4] skip) => (float[B,S,4] y)
            <float[4] dense_bias = {1, 2, 3, 4}, float[4] weight = {1, 1, 1, 2},
             float[4] bias = {0.5, 0, -0.5, 1}>
        {
            y, sum = dechaff.BiasSkipLayerNormalization <epsilon = 0.00001>
                (x, skip, weight, bias, dense_bias)
        }
    """

    name = "fuse-skip-normalization"
    numerics = Numerics.REASSOCIATES
    after = ("fuse-layer-normalization", "remove-padding")

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Start from each normalization of a sum; a sum with two of them goes to the first."""
        for node in list(module.nodes()):
            if is_op(node, "LayerNormalization", "RMSNormalization"):
                _fuse(node, rewriter)


@dataclasses.dataclass(frozen=True)
class _Residual:
    """``x + dense_bias + skip``; without ``dense_bias`` where there is none to fuse."""

    x: ir.Value
    skip: ir.Value
    dense_bias: ir.Value | None
    nodes: tuple[ir.Node, ...]


def _fuse(normalization: ir.Node, rewriter: Rewriter) -> None:
    addition = made_by(normalization.inputs[0], "Add")
    if addition is None:
        return
    problem = _find_problem(normalization, addition)
    if problem is not None:
        rewriter.miss(_RULE, normalization, problem)
        return
    is_layer = normalization.op_type == "LayerNormalization"
    residual = _residual(addition, with_bias=is_layer)
    given = float_attribute(normalization, "epsilon")
    epsilon = _DEFAULT_EPSILON if given is None else given
    operands = [residual.x, residual.skip, *normalization.inputs[1:]]
    if residual.dense_bias is not None:
        operands.append(residual.dense_bias)
    prefix = "Skip" if residual.dense_bias is None else "BiasSkip"
    nodes = [*residual.nodes, normalization]
    # The sum's readers may come before the normalization: the fused node takes the sum's place.
    with rewriter.rewrite(_RULE, nodes, before=addition) as builder:
        fused = builder.op(
            f"{prefix}{normalization.op_type}",
            operands,
            {"epsilon": epsilon},
            domain=DOMAIN,
            num_outputs=2,
        )
        maker = fused.producer()
        assert maker is not None
        builder.replace(normalization.outputs[0], fused)
        builder.replace(addition.outputs[0], maker.outputs[1])


def _find_problem(normalization: ir.Node, addition: ir.Node) -> str | None:
    left, right = (shape_expressions(value) for value in addition.inputs)
    if left is None or left != right or len(left) < 2:
        return "the two sides of the Add are not known to have one shape"
    axis, of_rank = integer_attribute(normalization, "axis", -1), rank(addition.outputs[0])
    if of_rank is None or axis not in (-1, of_rank - 1):
        return "it is not over the last axis"
    if integer_attribute(normalization, "stash_type", 1) != 1:
        return "its statistics are not in float32"
    if any(output.uses() or output.is_graph_output() for output in normalization.outputs[1:]):
        return "its statistics are in use"
    if normalization.op_type == "LayerNormalization" and (
        len(normalization.inputs) < 3 or normalization.inputs[2] is None
    ):
        return "it has no bias"
    vectors = normalization.inputs[1:]
    if any(rank(vector) != 1 or constant_value(vector) is None for vector in vectors):
        return "its scale or bias is not a constant vector"
    if addition.graph is not normalization.graph:
        return "the sum is computed outside the subgraph"
    return None


def _residual(addition: ir.Node, *, with_bias: bool) -> _Residual:
    left, right = addition.inputs[:2]
    assert left is not None
    assert right is not None
    for biased, skip in ((left, right), (right, left)):
        bias_addition = made_by(biased, "Add") if with_bias else None
        if bias_addition is None or not is_private(biased, [addition]):
            continue
        operands = dense_and_bias(bias_addition)
        if operands is not None and bias_addition.graph is addition.graph:
            return _Residual(operands[0], skip, operands[1], (bias_addition, addition))
    return _Residual(left, right, None, (addition,))
