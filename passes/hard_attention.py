"""Hard attention: a query attends to its best keys only, or to those near it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, Module

from .approximation import Approximation, Calibration, Edit
from .matching import integer_attribute, is_op, rank
from .rewriter import GraphBuilder, Rewriter


@dataclasses.dataclass(frozen=True)
class HardAttentionOptions:
    """Options of ``hard-attention``: what a query keeps.

    Attributes:
        k: the keys with the k largest scores; 0 for another rule.
        fraction: the share of a query's keys with the largest scores, rounded up; 0 for another.
        window: unless one of these two is given, the keys at most so many tokens away.
        num_global: with the window, how many first tokens see all, and are seen by all.
        layers: which attentions, counted from 1, such as ``3+4``; ``all``; ``none``, from which a
            search over the user's metric starts.
    """

    k: int = 0
    fraction: float = 0.0
    window: int = 128
    num_global: int = 0
    layers: str = "all"

    def __post_init__(self) -> None:
        if self.k < 0 or not 0 <= self.fraction <= 1:
            raise ValueError(f"expected k of at least 0 and a fraction of 0 to 1, got {self}")
        if self.window < 0 or self.num_global < 0:
            raise ValueError(f"expected a window and num_global of at least 0, got {self}")
        if self.k and self.fraction:
            raise ValueError(f"give k or fraction, not both: {self}")
        words = self.layers in ("all", "none")
        if not words and not all(part.isdigit() for part in self.layers.split("+")):
            raise ValueError(
                f"layers expects 'all', 'none' or numbers as in '3+4', got {self.layers!r}"
            )

    @property
    def is_local(self) -> bool:
        """Whether keys are kept by distance, and not by score."""
        return not self.k and not self.fraction

    def chooses(self, layer: int) -> bool:
        """Whether the attention is asked for, counted from 1."""
        return self.layers == "all" or str(layer) in self.layers.split("+")


class HardAttention(Approximation):
    """Let each query attend to its best keys only (AxFormer, arXiv 2010.03688), or to near ones.

    The keys are chosen before the softmax, which then sums to one over those chosen. With ``k`` or
    ``fraction`` they are those with the largest scores, of all that the query may see: ``k`` keys,
    or a share of the row's valid ones. **This saves no time**: to know the best takes every score,
    and to sort them takes longer than softmax. It may make a model more accurate. With ``window``
    they are the keys near the query, a static pattern (Longformer, arXiv 2004.05150). On packed
    rows scores that are not needed are then not computed, which pays for rows of some 1,000 tokens
    and more; for short ones attention row by row is the cheaper.

    With ``k``, fraction or window at all keys, nothing changes.

    Before::

        before (float[B,S,4] x, bool[B,S] mask) => (float[T,4] y)
        <int64 zero = {0}, int64 one = {1}>
        {
            index, starts, position = dechaff.TokenLayout (mask)
            count = Size (index)
            keys = Range (zero, count, one)
            h = dechaff.Pack (x, index, mask)
            y = dechaff.VarlenAttention
                <q_num_heads = 2, kv_num_heads = 2, scale = 0.5, is_causal = 0>
                (h, h, h, starts, keys, starts)
        }

    After::

        after (float[B,S,4] x, bool[B,S] mask) => (float[T,4] y)
        <int64 zero = {0}, int64 one = {1}>
        {
            index, starts, position = dechaff.TokenLayout (mask)
            count = Size (index)
            keys = Range (zero, count, one)
            h = dechaff.Pack (x, index, mask)
            y = dechaff.LocalVarlenAttention
                <q_num_heads = 2, kv_num_heads = 2, scale = 0.5, is_causal = 0, window = 128,
                 num_global = 0> (h, h, h, starts, keys, starts)
        }
    """

    name = "hard-attention"
    after = ("fuse-attention", "remove-padding")
    options_type = HardAttentionOptions
    levels = ("attentions",)

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Rewrite the attentions asked for."""
        changed = 0
        for layer, node in enumerate(_attentions(module), start=1):
            if not self.options.chooses(layer):
                continue
            packed = node.domain == DOMAIN
            reason = None if packed else _reason_against(node)
            if reason is not None:
                rewriter.miss(self.name, node, reason)
                continue
            (self._rewrite_packed if packed else self._rewrite_padded)(node, rewriter)
            changed += 1
        if changed and not self.options.is_local:
            rewriter.note("hard-attention: the k best keys of each query; this saves no time")

    @property
    def saves(self) -> frozenset[str]:
        """Time with a window; with the best keys nothing, to find them takes every score."""
        return frozenset(["time"] if self.options.is_local else [])

    @property
    def is_idle(self) -> bool:
        """Whether no attention is chosen."""
        return bool(self.options.layers == "none")

    def edits(self, module: Module, calibration: Calibration) -> Sequence[Edit]:
        """One attention more each, from the last to the first, where the options leave some out."""
        if self.options.layers == "all":
            return []
        layers = range(len(_attentions(module)), 0, -1)
        return [_one_more(layer) for layer in layers if not self.options.chooses(layer)]

    def _rewrite_packed(self, node: ir.Node, rewriter: Rewriter) -> None:
        options = self.options
        given = {name: attribute.value for name, attribute in node.attributes.items()}
        if options.is_local:
            op_type = "LocalVarlenAttention"
            given |= {"window": options.window, "num_global": options.num_global}
        else:
            op_type = "TopKVarlenAttention"
            given |= {"k": options.k, "fraction": float(options.fraction)}
        with rewriter.rewrite(self.name, [node]) as builder:
            replaced = builder.op(op_type, node.inputs, given, domain=DOMAIN)
            builder.replace(node.outputs[0], replaced)

    def _rewrite_padded(self, node: ir.Node, rewriter: Rewriter) -> None:
        with rewriter.rewrite(self.name, [node]) as builder:
            mask = node.inputs[3] if len(node.inputs) > 3 else None
            allowed = mask or builder.constant(np.ones((1, 1, 1, 1), np.bool_), "every_key")
            if self.options.is_local:
                kept = _near(builder, node, allowed, self.options)
            else:
                kept = self._best(builder, node, allowed)
            inputs = [*node.inputs[:3], kept, *node.inputs[4:]]
            builder.replace(node.outputs[0], builder.op("Attention", inputs, dict(node.attributes)))

    def _best(self, builder: GraphBuilder, node: ir.Node, allowed: ir.Value) -> ir.Value:
        attributes: dict[str, float] = {
            name: integer_attribute(node, name, 0)
            for name in ("q_num_heads", "kv_num_heads", "is_causal")
        }
        attributes |= {"k": self.options.k, "fraction": float(self.options.fraction)}
        operands = [*node.inputs[:2], allowed]
        return builder.op("TopKMask", operands, attributes, domain=DOMAIN)


def _attentions(module: Module) -> list[ir.Node]:
    """Attention, packed or padded, in order."""
    return [
        node
        for node in module.graph
        if (node.domain, node.op_type) == (DOMAIN, "VarlenAttention") or is_op(node, "Attention")
    ]


def _one_more(layer: int) -> Edit:
    def change(options: HardAttentionOptions) -> HardAttentionOptions:
        chosen = [] if options.layers == "none" else options.layers.split("+")
        return dataclasses.replace(options, layers="+".join([*chosen, str(layer)]))

    return Edit(f"attention {layer}", 0, change, kind="window")


def _reason_against(node: ir.Node) -> str | None:
    """Why an ``Attention`` is left as it is."""
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if rank(node.inputs[0]) != 3:
        return "its heads are split before it: query and key must be [B, S, H * d]"
    if len(node.inputs) > 4 or len(node.outputs) > 1:
        return "it has a cache of keys and values, or more than one output"
    if mask is not None and mask.dtype is not ir.DataType.BOOL:
        return "its mask is a number added to the scores, which may hide keys or not"
    return None


def _near(
    builder: GraphBuilder, node: ir.Node, allowed: ir.Value, options: HardAttentionOptions
) -> ir.Value:
    """The mask less the keys that are far from the query and not global, by positions."""
    one_axis = builder.constant(np.array([1], np.int64), "axes")
    zero = builder.constant(np.array(0, np.int64), "zero")
    one = builder.constant(np.array(1, np.int64), "one")
    places = []
    for operand in node.inputs[:2]:
        size = builder.op("Shape", [operand], {"start": 1, "end": 2})
        places.append(builder.op("Range", [zero, builder.op("Squeeze", [size]), one]))
    queries, keys = builder.op("Unsqueeze", [places[0], one_axis]), places[1]
    distance = builder.op("Abs", [builder.op("Sub", [queries, keys])])
    reach = builder.constant(np.array(options.window, np.int64), "window")
    pattern = builder.op("LessOrEqual", [distance, reach])
    if options.num_global:
        count = builder.constant(np.array(options.num_global, np.int64), "num_global")
        ends = [builder.op("Less", [side, count]) for side in (queries, keys)]
        pattern = builder.op("Or", [pattern, builder.op("Or", ends)])
    return builder.op("And", [allowed, pattern])
