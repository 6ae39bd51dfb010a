"""What a rule of ``canonicalize`` answers: the value that takes the place of a node's result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import onnx_ir as ir

from .rewriter import GraphBuilder, Rewriter


@dataclasses.dataclass(frozen=True)
class Replacement:
    """What takes the place of a node's first output.

    Attributes:
        rule: name of the rule.
        nodes: the nodes that the result stands for, the replaced one last.
        build: makes the result, or gives a value that is there already.
    """

    rule: str
    nodes: Sequence[ir.Node]
    build: Callable[[GraphBuilder], ir.Value]


Rule = Callable[[ir.Node, Rewriter], Replacement | None]
"""Looks at a node; gives None where it does not apply, and tells the rewriter of a near miss."""


def forward(rule: str, value: ir.Value, *nodes: ir.Node) -> Replacement:
    """A replacement by a value that is there already."""
    return Replacement(rule, nodes, lambda _: value)
