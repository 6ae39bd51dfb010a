"""Padding removal: everything that works token by token runs on the valid tokens alone."""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import Module, ValidPositions

from .matching import is_op
from .padding.flow import Escape, TokenFlow
from .padding.packer import Packer
from .padding.padding_mask import (
    KEEPS_POSITIONS,
    PaddingMask,
    find_padding_mask,
    has_candidates,
    masked_attentions,
)
from .padding.placement import Placement, place
from .padding.token_flow import analyze
from .pass_base import Numerics, Pass
from .rewriter import Rewriter


class RemovePadding(Pass):
    """Pack the valid tokens of all rows end to end, and unpack at the outputs.

    Dense layers, normalizations and activations then work on ``T`` tokens in place of ``B * S``,
    and attention on each sequence at its own length. Padded positions of ``[batch, sequence, ...]``
    outputs come back as zeros. The method is ByteTransformer's (IPDPS 2023, section III.D), with
    one pack and one unpack for the whole model, placed by a minimum cut.

    Nothing is assumed about the mask but what the graph shows: padding may lie right, left or in
    between, and rows may be empty (what a model says of a row without tokens means nothing, before
    and after). The pass declines, and names the operation, where padding can
    reach a valid output or cannot be shown not to.

    Before::

        before (float[B,S,4] x, bool[B,S] mask) => (float[B,S,4] y)
        <float[4] gamma = {1, 2, 3, 4}, int64[2] axes = {1, 2},
         int64[2] leading = {1, 1}, int64[1] one = {1}>
        {
            h = LayerNormalization (x, gamma)
            keys = Unsqueeze (mask, axes)
            length = Shape <start = 1, end = 2> (mask)
            mask_shape = Concat <axis = 0> (leading, length, one)
            written_out = Expand (keys, mask_shape)
            c = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h, h, h, written_out)
            y = Relu (c)
        }

    After::

        after (float[B,S,4] x, bool[B,S] mask) => (float[B,S,4] y)
        <float[4] gamma = {1, 2, 3, 4}, int64 zero = {0}, int64 one = {1}>
        {
            index, starts, position = dechaff.TokenLayout (mask)
            count = Size (index)
            keys = Range (zero, count, one)
            x_packed = dechaff.Pack (x, index, mask)
            h = LayerNormalization <axis = -1> (x_packed, gamma)
            c = dechaff.VarlenAttention
                <q_num_heads = 2, kv_num_heads = 2, scale = 0.5, is_causal = 0>
                (h, h, h, starts, keys, starts)
            y_packed = Relu (c)
            y = dechaff.Unpack (y_packed, index, mask)
        }
    """

    name = "remove-padding"
    numerics = Numerics.REASSOCIATES
    after = ("fuse-attention", "fuse-layer-normalization", "fuse-gelu")

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Find a padding mask, show that packing is legal, place it, write it; then the next."""
        known: list[PaddingMask] = []
        while True:
            attentions = [
                node
                for node in module.graph
                if is_op(node, "Attention") and not any(mask.is_hidden_by(node) for mask in known)
            ]
            mask = find_padding_mask(masked_attentions(attentions))
            if mask is None:
                if not known:
                    self._tell_why_none(attentions, rewriter)
                return
            known.append(mask)
            self._remove(module, mask, rewriter)

    def _remove(self, module: Module, mask: PaddingMask, rewriter: Rewriter) -> None:
        try:
            flow = analyze(module, mask.value, mask.zero_is_valid)
        except Escape as escape:
            rewriter.miss(self.name, escape.node, str(escape))
            return
        placement = place(flow)
        if not placement.packed:
            rewriter.note(_why_nothing(flow))
            return
        source = _original_mask(mask.value)
        outputs = [
            ValidPositions(output.name or "", source, per_row, mask.zero_is_valid)
            for kind, per_row in ((flow.outputs, False), (flow.row_outputs, True))
            for output in kind
        ]
        Packer(flow, placement.packed, rewriter).run()
        module.valid_positions += outputs
        rewriter.note(_summary(flow, placement))

    def _tell_why_none(self, attentions: list[ir.Node], rewriter: Rewriter) -> None:
        masked = masked_attentions(attentions)
        if not attentions:
            rewriter.note("remove-padding: the model has no softmax attention that dechaff knows")
        elif not has_candidates(masked):
            rewriter.miss(self.name, attentions[0], "no mask tells padding from tokens")
        else:
            reason = (
                "no value [batch, sequence] is shown to be its padding mask: one whose zeros "
                "surely hide those keys from every query"
            )
            rewriter.miss(self.name, masked[0], reason)


def _why_nothing(flow: TokenFlow) -> str:
    if flow.packable:
        return "remove-padding: packing would cost more than it saves"
    return (
        f"remove-padding: nothing is computed for each position of the padding mask "
        f"{flow.mask.name!r} (a decoding step computes one token a row, which is no padding)"
    )


def _summary(flow: TokenFlow, placement: Placement) -> str:
    attentions = len(flow.varlen.keys() & placement.packed)
    return (
        f"remove-padding: {len(placement.packed)} ops run on packed tokens, {attentions} of them "
        f"attention; packing pays below a share of valid tokens of {placement.break_even:.0%}"
    )


def _original_mask(mask: ir.Value) -> str:
    """The name that the mask has in the original graph: its input, where there is one."""
    value: ir.Value | None = mask
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in KEEPS_POSITIONS:
            break
        value = node.inputs[0]
    if value is not None and value.is_graph_input():
        return value.name or ""
    return mask.name or ""
