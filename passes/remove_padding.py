"""Padding removal: everything that works token by token runs on the valid tokens alone."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from dechaff.ir import Module, ValidPositions

from .matching import is_op, rank
from .padding.flow import Escape, TokenFlow
from .padding.layouts import same_size
from .padding.mask_facts import MaskFacts
from .padding.packer import Packer
from .padding.placement import Placement, place
from .padding.token_flow import analyze
from .pass_base import Numerics, Pass
from .rewriter import Rewriter

_KEEPS_POSITIONS = ("Cast", "Identity", "Slice", "Unsqueeze", "Squeeze", "Reshape")
_MASK_TYPES = (
    ir.DataType.BOOL,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
)


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
        known: list[MaskFacts] = []
        while True:
            attentions = [
                node
                for node in module.graph
                if is_op(node, "Attention") and not any(_hides(facts, node) for facts in known)
            ]
            found = _find_padding_mask(attentions, rewriter, is_first=not known)
            if found is None:
                return
            mask, zero_is_valid = found
            known.append(MaskFacts(mask, zero_is_valid))
            self._remove(module, mask, zero_is_valid, rewriter)

    def _remove(
        self, module: Module, mask: ir.Value, zero_is_valid: bool, rewriter: Rewriter
    ) -> None:
        try:
            flow = analyze(module, mask, zero_is_valid)
        except Escape as escape:
            rewriter.miss(self.name, escape.node, str(escape))
            return
        placement = place(flow)
        if not placement.packed:
            rewriter.note(_why_nothing(flow))
            return
        source = _original_mask(mask)
        outputs = [
            ValidPositions(output.name or "", source, per_row, zero_is_valid)
            for kind, per_row in ((flow.outputs, False), (flow.row_outputs, True))
            for output in kind
        ]
        Packer(flow, placement.packed, rewriter).run()
        module.valid_positions += outputs
        rewriter.note(_summary(flow, placement))


def _hides(facts: MaskFacts, attention: ir.Node) -> bool:
    mask = attention.inputs[3] if len(attention.inputs) > 3 else None
    return mask is not None and facts.hides_padded_keys(mask)


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


def _find_padding_mask(
    attentions: list[ir.Node], rewriter: Rewriter, is_first: bool
) -> tuple[ir.Value, bool] | None:
    """The ``[B, S]`` value that tells padding from tokens, and whether its zeros are the tokens.

    Args:
        attentions: those whose padding is not known yet.
        rewriter: is told why there is none, if ``is_first``.
        is_first: whether no padding mask is known yet.
    """
    masked = [n for n in attentions if len(n.inputs) > 3 and n.inputs[3] is not None]
    best, most = None, 0
    for candidate in _candidates(masked):
        for zero_is_valid in (False, True):
            facts = MaskFacts(candidate, zero_is_valid)
            hidden = sum(_hides(facts, node) for node in masked)
            if hidden and hidden >= most:  # of equals the last one, which is nearest to the inputs
                best, most = (candidate, zero_is_valid), hidden
    if best is not None or not is_first:
        return best
    if not attentions:
        rewriter.note("remove-padding: the model has no softmax attention that dechaff knows")
    elif not masked:
        rewriter.miss("remove-padding", attentions[0], "no mask tells padding from tokens")
    else:
        reason = (
            "no value [batch, sequence] is shown to be its padding mask: one whose zeros surely "
            "hide those keys from every query"
        )
        rewriter.miss("remove-padding", masked[0], reason)
    return None


def _candidates(attentions: list[ir.Node]) -> Iterator[ir.Value]:
    """Values shaped ``[B, S]`` that the attention masks are computed from, nearest first."""
    seen: set[ir.Value] = set()
    for attention in attentions:
        pending = [attention.inputs[3]]
        while pending:
            value = pending.pop(0)
            if value is None or value in seen:
                continue
            seen.add(value)
            fits = value.dtype in _MASK_TYPES and _fits(value, attention)
            if fits and not _indexes_a_table(value):
                yield value
            node = value.producer()
            pending += list(node.inputs) if node is not None else []


def _indexes_a_table(value: ir.Value) -> bool:
    """Whether the entries are ids: they are not zeros and ones, as a mask's are."""
    for user, position in value.uses():
        if is_op(user, "Gather") and position == 1:
            return True
        if is_op(user, *_KEEPS_POSITIONS) and _indexes_a_table(user.outputs[0]):
            return True
    return False


def _fits(mask: ir.Value, attention: ir.Node) -> bool:
    """Whether a value has the batch and the key length of an attention."""
    key = attention.inputs[1]
    if key is None or key.shape is None or mask.shape is None or rank(mask) != 2:
        return False
    sequence_axis = 2 if len(key.shape) == 4 else 1
    sizes = (key.shape[0], key.shape[sequence_axis])
    return all(same_size(mask.shape[axis], sizes[axis]) for axis in (0, 1))


def _original_mask(mask: ir.Value) -> str:
    """The name that the mask has in the original graph: its input, where there is one."""
    value: ir.Value | None = mask
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in _KEEPS_POSITIONS:
            break
        value = node.inputs[0]
    if value is not None and value.is_graph_input():
        return value.name or ""
    return mask.name or ""
