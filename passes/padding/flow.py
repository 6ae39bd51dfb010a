"""What the analysis of padding removal finds, and how it ends where it must."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from .layouts import Layout
from .mask_facts import Visibility


class Escape(Exception):  # noqa: N818  (control flow: the pass declines, nothing is wrong)
    """Taint reaches an operation that mixes positions.

    Attributes:
        node: the operation that stopped padding removal.
    """

    def __init__(self, node: ir.Node, reason: str) -> None:
        super().__init__(reason)
        self.node = node


@dataclasses.dataclass
class TokenFlow:
    """What the analysis found.

    Attributes:
        mask: the padding mask, ``[B, S]``.
        zero_is_valid: whether it is zero where tokens are, and not where padding is.
        layouts: token axes of every value that carries tokens.
        pairs: values that stay padded, with the axes that index positions; see ``pair_rules``.
        packable: nodes that may run on packed tokens, in order.
        varlen: those of them that are attention, with what their queries see.
        selections: nodes that pick constant positions of the sequence, with those positions.
        shape_reads: ``Shape`` nodes over values that may become packed.
        outputs: graph outputs whose padded positions lose their meaning.
        row_outputs: graph outputs ``[B, ...]`` whose rows without tokens lose theirs.
    """

    mask: ir.Value
    zero_is_valid: bool = False
    layouts: dict[ir.Value, Layout] = dataclasses.field(default_factory=dict)
    pairs: dict[ir.Value, frozenset[int]] = dataclasses.field(default_factory=dict)
    packable: list[ir.Node] = dataclasses.field(default_factory=list)
    varlen: dict[ir.Node, Visibility] = dataclasses.field(default_factory=dict)
    selections: dict[ir.Node, list[int]] = dataclasses.field(default_factory=dict)
    shape_reads: list[ir.Node] = dataclasses.field(default_factory=list)
    outputs: list[ir.Value] = dataclasses.field(default_factory=list)
    row_outputs: list[ir.Value] = dataclasses.field(default_factory=list)
