"""The pass ``canonicalize``: one spelling for what exporters spell in many ways."""

from __future__ import annotations

import graphlib
from collections import Counter

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript.rewriter.rules.common import _basic_rules as library_rules

from dechaff.ir import DOMAIN, ModelRejectedError, Module

from .canonical_rules import RULES
from .pass_base import Numerics, Pass
from .rewriter import Rewriter
from .subgraph_outputs import OwnSubgraphOutputs

_MAX_SWEEPS = 16
_ALL_BYTES = 4 * 2**30
_SMALL_BYTES = 2**16
_MAX_INLINED_NODES = 1_000_000
_RANDOM_OPS = frozenset(["Bernoulli", "Dropout"])
"""Operators that give another result each time and that the library's CSE would merge."""
_LIBRARY_RULES = (
    library_rules.TransposeIdentity,
    library_rules.TransposeTranspose,
)


class Canonicalize(Pass):
    """Give equal computations equal form, so that later patterns are few.

    Inlines functions (the dialect's stay whole), turns ``Constant`` nodes into initializers, merges
    equal initializers and equal subexpressions, and removes what does nothing: dropout outside
    training, casts, reshapes, transposes and slices that change nothing. Sees through the detours
    of exporters: transposed keys of attention by way of a 3-D tensor, masks that are broadcast by
    ``GatherND``, and query, key and value as indices of an axis that a joint product was given.

    Every step is exact to the bit: ``x + 0.0`` stays, since it turns -0.0 into 0.0.

    Before::

        before (float[B,H,S,16] keys, float[B,H,S,S] scores)
            => (float[B,H,16,S] kt, float[B,H,S,S] y)
        {
            minus_one = Constant <value = int64[1] {-1}> ()
            sizes = Shape (keys)
            rows = Shape <start = 2, end = 3> (keys)
            width = Constant <value = int64[1] {16}> ()
            folded_shape = Concat <axis = 0> (minus_one, rows, width)
            folded = Reshape (keys, folded_shape)
            swapped = Transpose <perm = [0, 2, 1]> (folded)
            leading = Shape <end = 2> (keys)
            target = Concat <axis = 0> (leading, width, rows)
            kt = Reshape (swapped, target)
            eight = Constant <value = float {8}> ()
            scaled = Div (scores, eight)
            same = Cast <to = 1> (scaled)
            y = Dropout (same)
        }

    After::

        after (float[B,H,S,16] keys, float[B,H,S,S] scores)
            => (float[B,H,16,S] kt, float[B,H,S,S] y)
        {
            kt = Transpose <perm = [0, 1, 3, 2]> (keys)
            eighth = Constant <value = float {0.125}> ()
            y = Mul (scores, eighth)
        }
    """

    name = "canonicalize"
    numerics = Numerics.EXACT

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Inline, lift constants, then alternate rules and clean-up until nothing changes.

        Raises:
            ModelRejectedError: the model's functions call themselves, expand to more nodes than
                any model has, or import another opset than the model.
        """
        _inline_functions(module, rewriter)
        for sweep in range(_MAX_SWEEPS):
            # Rules make small constants only: the weights are read and compared once.
            compared = _ALL_BYTES if sweep == 0 else _SMALL_BYTES
            changed = _clean_up(module, rewriter, compared)
            rewriter.infer_shapes()
            changed += _apply_node_rules(module, rewriter)
            changed += rewriter.apply_rules(_LIBRARY_RULES, note_misses=False)
            if not changed:
                break
        else:
            rewriter.note(f"canonicalize: rules still fire after {_MAX_SWEEPS} sweeps; it stops")
        rewriter.run("fix-outputs", common_passes.OutputFixPass())
        rewriter.run("own-subgraph-outputs", OwnSubgraphOutputs())


def _inline_functions(module: Module, rewriter: Rewriter) -> None:
    """Replace calls of the model's own functions by their bodies; the dialect's stay calls."""
    try:
        count = _expanded_size(module)
    except graphlib.CycleError as error:
        names = " -> ".join(key[1] for key in reversed(error.args[1]))
        raise ModelRejectedError(f"{module.source}: functions call themselves: {names}") from error
    if count > _MAX_INLINED_NODES:
        raise ModelRejectedError(
            f"{module.source}: inlining the model's functions gives more than "
            f"{_MAX_INLINED_NODES} nodes; refusing to expand it"
        )
    inline = common_passes.InlinePass(lambda function: function.domain != DOMAIN)
    try:
        rewriter.run("inline-functions", inline)
    except ValueError as error:
        raise ModelRejectedError(f"{module.source}: cannot inline functions: {error}") from error


def _expanded_size(module: Module) -> int:
    """Number of nodes after inlining, counted without inlining."""
    bodies = {
        key: Counter(node.op_identifier() for node in function.all_nodes())
        for key, function in module.model.functions.items()
    }
    calls = {key: [op for op in body if op in bodies] for key, body in bodies.items()}
    sizes: dict[ir.OperatorIdentifier, int] = {}
    for key in graphlib.TopologicalSorter(calls).static_order():
        sizes[key] = sum(sizes.get(op, 1) * count for op, count in bodies[key].items())
    return sum(sizes.get(node.op_identifier(), 1) for node in module.nodes())


def _clean_up(module: Module, rewriter: Rewriter, compared_bytes: int) -> int:
    """The library's clean-up passes, each recorded if it changed something.

    Args:
        module: the module.
        rewriter: what all edits go through.
        compared_bytes: size up to which constants are read and merged with equal ones.
    """
    steps: list[tuple[str, ir.passes.InPlacePass]] = [
        (
            "lift-constants",
            common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        ),
        (
            "merge-equal-initializers",
            common_passes.DeduplicateHashedInitializersPass(size_limit=compared_bytes),
        ),
        ("remove-identities", common_passes.IdentityEliminationPass()),
    ]
    if _is_deterministic(module):
        steps.append(("merge-equal-nodes", common_passes.CommonSubexpressionEliminationPass()))
    changed = sum(rewriter.run(rule, library_pass) for rule, library_pass in steps)
    common_passes.RemoveUnusedNodesPass()(module.model)
    return changed


def _is_deterministic(module: Module) -> bool:
    """Whether equal nodes surely give equal results."""
    return not any(
        node.op_type in _RANDOM_OPS or node.domain not in ("", DOMAIN, "com.microsoft")
        for node in module.nodes()
    )


def _apply_node_rules(module: Module, rewriter: Rewriter) -> int:
    applied = 0
    for node in list(module.nodes()):
        for rule in RULES.get(node.op_type, ()):
            if node.domain != "" or not _is_used(node):
                break
            replacement = rule(node, rewriter)
            if replacement is None:
                continue
            with rewriter.rewrite(replacement.rule, replacement.nodes, before=node) as builder:
                builder.replace(node.outputs[0], replacement.build(builder))
            applied += 1
            break
    return applied


def _is_used(node: ir.Node) -> bool:
    return any(output.uses() or output.is_graph_output() for output in node.outputs)
