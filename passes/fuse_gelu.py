"""The pass ``fuse-gelu``: spelled-out GELU becomes one operator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import onnx_ir as ir

from dechaff.ir import Module, constant_value

from .matching import is_op, is_private, made_by, rank, scalar
from .pass_base import Numerics, Pass
from .polynomials import Polynomial, mismatch, polynomial
from .rewriter import Rewriter

_RULE = "fuse-gelu"
_MAX_STEPS_UP = 6
_MAX_STEPS_DOWN = 10
_OUTER: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
"""``0.5 * x + 0.5 * x * e``, where ``e`` is the inner Erf or Tanh."""


@dataclasses.dataclass(frozen=True)
class _Variant:
    approximate: str
    inner: Polynomial


_VARIANTS = {
    "Erf": _Variant("none", {(1,): math.sqrt(0.5)}),
    "Tanh": _Variant(
        "tanh", {(1,): math.sqrt(2.0 / math.pi), (3,): 0.044715 * math.sqrt(2.0 / math.pi)}
    ),
}
"""The argument of the inner function, as a polynomial in x."""


class FuseGelu(Pass):
    """Replace spelled-out GELU by ``Gelu``, the exact one and the tanh approximation kept apart.

    Any spelling matches that multiplies out to ``0.5 * x + 0.5 * x * e``, where ``e`` is
    ``Erf(x / sqrt(2))`` or ``Tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))``: where the factors
    stand, and whether they are divided or multiplied by, makes no difference. Constants are held
    to float32 accuracy. ``x * Sigmoid(1.702 * x)`` is another function and stays.

    Before::

        before (float[B,S,8] x) => (float[B,S,8] y)
            <float root_two = {1.4142135}, float one = {1}, float half = {0.5}>
        {
            scaled = Div (x, root_two)
            error = Erf (scaled)
            shifted = Add (error, one)
            product = Mul (x, shifted)
            y = Mul (product, half)
        }

    After::

        after (float[B,S,8] x) => (float[B,S,8] y)
        {
            y = Gelu <approximate = "none"> (x)
        }
    """

    name = "fuse-gelu"
    numerics = Numerics.REASSOCIATES
    after = ("canonicalize",)

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Start from each Erf and Tanh."""
        for node in list(module.nodes()):
            if is_op(node, *_VARIANTS):
                _fuse(node, _VARIANTS[node.op_type], rewriter)


def _fuse(inner: ir.Node, variant: _Variant, rewriter: Rewriter) -> None:
    x = _find_input(inner, variant, rewriter)
    if x is None:
        return
    root = _find_output(inner, x, rewriter)
    if root is None:
        return
    nodes = _nodes_between(x, root)
    if any(not is_private(node.outputs[0], nodes) for node in nodes if node is not root.producer()):
        rewriter.miss(_RULE, inner, "a value inside it is used elsewhere")
        return
    if not _keeps_shape(x, nodes):
        rewriter.miss(_RULE, inner, "a constant broadcasts its input to more dimensions")
        return
    with rewriter.rewrite(_RULE, nodes, before=root.producer()) as builder:
        fused = builder.op("Gelu", [x], {"approximate": variant.approximate})
        builder.replace(root, fused)


def _find_input(inner: ir.Node, variant: _Variant, rewriter: Rewriter) -> ir.Value | None:
    """The value that the argument of Erf or Tanh is the right polynomial of."""
    near: str | None = None
    for candidate in _values_above(inner.inputs[0], _MAX_STEPS_UP):
        terms = polynomial(inner.inputs[0], [candidate])
        if terms is None or terms.keys() != variant.inner.keys():
            continue
        problem = mismatch(terms, variant.inner, candidate.dtype)
        if problem is None:
            return candidate
        if candidate is not inner.inputs[0]:
            near = near or problem
    if near is not None:
        rewriter.miss(_RULE, inner, f"in the argument of {inner.op_type}, {near}")
    return None


def _values_above(value: ir.Value | None, steps: int) -> Iterator[ir.Value]:
    """The value and those it is computed from, nearest first, constants left out."""
    level = [value]
    seen: set[ir.Value] = set()
    for _ in range(steps):
        below: list[ir.Value | None] = []
        for item in level:
            if item is None or item in seen or constant_value(item) is not None:
                continue
            seen.add(item)
            yield item
            node = made_by(item, "Add", "Sub", "Mul", "Div", "Neg", "Pow")
            below += list(node.inputs) if node is not None else []
        level = below


def _find_output(inner: ir.Node, x: ir.Value, rewriter: Rewriter) -> ir.Value | None:
    """The value below Erf or Tanh that multiplies out to GELU."""
    near: str | None = None
    level = [inner.outputs[0]]
    for _ in range(_MAX_STEPS_DOWN):
        users = [user for value in level for user, _ in value.uses()]
        level = [user.outputs[0] for user in users if is_op(user, "Add", "Mul", "Div", "Sub")]
        for value in level:
            terms = polynomial(value, [x, inner.outputs[0]])
            if terms is None or (1, 1) not in terms:
                continue
            problem = mismatch(terms, _OUTER, x.dtype)
            if problem is None:
                return value
            near = problem
    if near is not None:
        rewriter.miss(_RULE, inner, f"around {inner.op_type}, {near}")
    return None


def _nodes_between(x: ir.Value, root: ir.Value) -> list[ir.Node]:
    """The nodes that compute ``root`` from ``x``, the last one first."""
    found: dict[ir.Node, None] = {}
    pending: list[ir.Value | None] = [root]
    while pending:
        value = pending.pop()
        node = value.producer() if value is not None and value is not x else None
        if node is None or node in found or constant_value(value) is not None:
            continue
        found[node] = None
        pending += list(node.inputs)
    return list(found)


def _keeps_shape(x: ir.Value, nodes: list[ir.Node]) -> bool:
    constants = [value for node in nodes for value in node.inputs if scalar(value) is not None]
    most = max((rank(value) or 0 for value in constants), default=0)
    return most == 0 or most <= (rank(x) or 0)
