"""The legality of padding removal: can what a padded row holds ever reach a valid output?

A walk through the graph from the first dense layer on. A value is *tainted* if its padded rows may
come to hold something else than in the original (zeros instead of leftovers). Token-wise operations
pass taint on row by row; attention stops it if the mask hides padded keys; anything else that reads
a tainted value across positions lets it escape, and then the model stays as it is.
"""

from __future__ import annotations

import onnx_ir as ir

from dechaff.ir import Module, constant_value
from dechaff.passes.matching import (
    ancestors,
    permutation,
    rank,
    scalar,
    used_only_by,
    values_read,
)

from .attention_rule import under_its_mask, visibility
from .flow import Escape, TokenFlow
from .intervals import ONE, ZERO
from .layouts import Layout, NotTokenWise, leading_layout, same_size
from .mask_facts import MaskFacts, Visibility
from .pair_rules import position_axes
from .selections import selected_positions
from .token_rules import TOKEN_RULES

_STARTS = ("MatMul", "LayerNormalization", "RMSNormalization")


def analyze(module: Module, mask: ir.Value, zero_is_valid: bool = False) -> TokenFlow:
    """Follow taint through the whole graph.

    Args:
        module: the module.
        mask: the padding mask, ``[B, S]``.
        zero_is_valid: whether its ones are padding, and not its zeros.

    Raises:
        Escape: padding can reach a valid output, or cannot be shown not to.
    """
    return _Walk(module, TokenFlow(mask, zero_is_valid)).run()


class _Walk:
    def __init__(self, module: Module, flow: TokenFlow) -> None:
        self._module = module
        self._facts = MaskFacts(flow.mask, flow.zero_is_valid)
        self._flow = flow
        self._tainted: set[ir.Value] = set()
        # Zero at padding in the original as well: what reads them unpacked reads the same numbers.
        self._exact: set[ir.Value] = set()
        self._no_picking: Escape | None = None
        self._mask_ancestors = ancestors(flow.mask)

    def run(self) -> TokenFlow:
        for node in self._module.graph:
            if self._has_taint(node):
                self._follow(node)
            elif _is_start(node, self._flow.mask):
                self._start(node)
        self._check_outputs()
        self._check_selections()
        self._extend_upstream()
        return self._flow

    def _has_taint(self, node: ir.Node) -> bool:
        return not self._tainted.isdisjoint(values_read(node))

    def _start(self, node: ir.Node) -> None:
        source = node.inputs[0]
        layout = leading_layout(source, self._flow.mask)
        if source is None or layout is None:
            return
        try:
            result = TOKEN_RULES[node.op_type].layout(node, {source: layout}, self._flow.mask)
        except NotTokenWise:
            return
        self._flow.layouts[source] = layout
        self._accept(node, result)

    def _accept(self, node: ir.Node, layout: Layout) -> None:
        self._flow.packable.append(node)
        self._taint(node, layout)

    def _taint(self, node: ir.Node, layout: Layout) -> None:
        self._flow.layouts.update(dict.fromkeys(node.outputs, layout))
        self._tainted.update(node.outputs)

    def _follow(self, node: ir.Node) -> None:
        if node.domain == "" and node.op_type == "Shape":
            if node.inputs[0] not in self._flow.pairs:
                self._read_shape(node)
            return
        if node.domain == "" and node.op_type == "Attention":
            self._attention(node)
            return
        positions = selected_positions(node, self._flow.layouts)
        if positions is not None:
            self._flow.selections[node] = positions
            return
        rule = TOKEN_RULES.get(node.op_type) if node.domain == "" else None
        try:
            if any(value in self._flow.pairs for value in node.inputs):
                raise NotTokenWise("it is not known to keep pairs of positions apart")
            if rule is None:
                raise NotTokenWise("it is not known to work on each token alone")
            layout = rule.layout(node, self._flow.layouts, self._flow.mask)
        except NotTokenWise as reason:
            if self._reads_only_exact(node) or self._scores_pairs(node):
                return
            raise Escape(node, str(reason)) from reason
        self._accept(node, layout)
        if self._clears_padding(node, layout):
            self._exact.update(node.outputs)

    def _scores_pairs(self, node: ir.Node) -> bool:
        """Whether the node may stay padded, as it keeps apart what comes from which position."""
        axes = position_axes(node, self._flow.layouts, self._flow.pairs)
        if axes is None:
            return False
        self._flow.pairs[node.outputs[0]] = axes
        self._tainted.add(node.outputs[0])
        return True

    def _read_shape(self, node: ir.Node) -> None:
        if node in self._mask_ancestors:
            raise Escape(node, "the padding mask itself is computed from this shape")
        self._flow.shape_reads.append(node)

    def _reads_only_exact(self, node: ir.Node) -> bool:
        tainted = [v for v in node.inputs if v is not None and v in self._tainted]
        return bool(tainted) and all(value in self._exact for value in tainted)

    def _clears_padding(self, node: ir.Node, layout: Layout) -> bool:
        """Whether the result is zero at padding, by multiplication or selection with the mask."""
        if layout.merged:
            return False
        if node.op_type == "Mul":
            return any(self._is_zero(value, layout) for value in node.inputs)
        if node.op_type == "Where":
            return self._selects_zero(node, layout)
        keeps_zero = node.op_type in ("Cast", "Identity", "Neg", "Transpose", "Unsqueeze")
        return keeps_zero and node.inputs[0] in self._exact

    def _is_zero(self, value: ir.Value | None, layout: Layout) -> bool:
        if value is None or rank(value) is None:
            return False
        if value in self._exact:
            return True
        axes = (layout.batch_axis - layout.rank, layout.sequence_axis - layout.rank)
        return self._facts.is_zero_at_padding(value, *axes)

    def _selects_zero(self, node: ir.Node, layout: Layout) -> bool:
        condition, if_true, if_false = node.inputs
        if condition is None:
            return False
        at_padding = self._facts.of(condition).padded.get(layout.sequence_axis - layout.rank)
        chosen = {ONE: if_true, ZERO: if_false}.get(at_padding) if at_padding else None
        return chosen is not None and (scalar(chosen) == 0 or self._is_zero(chosen, layout))

    def _attention(self, node: ir.Node) -> None:
        query, key, value = node.inputs[:3]
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if len(node.inputs) > 4 or sum(bool(out.uses()) for out in node.outputs) > 1:
            raise Escape(node, "attention with a cache or with its scores as output")
        pairs = self._flow.pairs
        keys_tainted = key in self._tainted or value in self._tainted or mask in pairs
        if keys_tainted and (mask is None or not self._facts.hides_padded_keys(mask)):
            raise Escape(node, "the attention mask is not shown to hide padded keys")
        if mask in self._tainted and not pairs.get(mask, frozenset([0])) <= {2, 3}:
            raise Escape(node, "the attention mask depends on hidden states")
        if query not in self._tainted and mask not in self._tainted:
            return  # clean queries over keys that are all valid: nothing tainted comes out
        expected = Layout(4, 0, 2) if rank(query) == 4 else Layout(3, 0, 1)
        given = [value for value in (query, key, value) if value is not None]
        if any(v in pairs or self._flow.layouts.get(v, expected) != expected for v in given):
            raise Escape(node, "batch and sequence of its operands lie on unexpected axes")
        if mask is not None and (reason := self._facts.changes_padded_queries(node, mask)):
            self._no_picking = Escape(node, f"a position is picked from the sequence, and {reason}")
        self._taint(node, expected)
        visible = self._visibility(node, mask)
        if visible is not None:
            self._flow.packable.append(node)
            self._flow.varlen[node] = visible

    def _visibility(self, node: ir.Node, mask: ir.Value | None) -> Visibility | None:
        """What queries see if the attention can run packed, else None."""
        if mask is None or not all(value in self._tainted for value in node.inputs[:3]):
            return None
        return visibility(node, mask, self._facts, self._flow.mask)

    def _check_outputs(self) -> None:
        for output in self._module.graph.outputs:
            producer = output.producer()
            if producer is None:
                continue
            if output not in self._tainted or output in self._exact:
                self._check_row_output(output)
                continue
            layout = self._flow.layouts.get(output)
            if layout is None or not layout.leads or layout.merged:
                raise Escape(producer, f"graph output {output.name!r} is not [batch, sequence, ..]")
            self._flow.outputs.append(output)

    def _check_row_output(self, output: ir.Value) -> None:
        """A result per row is the same as before, but for rows in which nothing is valid.

        Where rows of the batch meet, as where each text is scored against each image, a row
        without tokens would change the results of others.
        """
        sizes, mask_sizes, maker = output.shape, self._flow.mask.shape, output.producer()
        if maker is None or sizes is None or not mask_sizes:
            return
        if ancestors(output).isdisjoint(self._flow.packable):
            return
        batch_axes = [axis for axis, size in enumerate(sizes) if same_size(size, mask_sizes[0])]
        if batch_axes == [0]:
            self._flow.row_outputs.append(output)
        elif batch_axes:
            raise Escape(
                maker,
                f"rows of the batch meet in the graph output {output.name!r}, so that a row "
                "without tokens would change the results of others",
            )

    def _check_selections(self) -> None:
        """A picked position may be padding: it is kept, and its own attention must be as before.

        Packed causal attention counts positions among the keys, which such a token is not; the
        mask, where there is one, counts them as before.
        """
        causal = [n for n, seen in self._flow.varlen.items() if seen is Visibility.CAUSAL]
        for node in causal if self._flow.selections else ():
            under_mask = under_its_mask(node, self._flow.mask)
            if under_mask is not None:
                self._flow.varlen[node] = under_mask
                continue
            del self._flow.varlen[node]
            self._flow.packable.remove(node)
        if self._flow.selections and self._no_picking is not None:
            raise self._no_picking

    def _extend_upstream(self) -> None:
        """Take in token-wise nodes before the region whose results only the region uses."""
        inside = set(self._flow.packable)
        for node in reversed(list(self._module.graph)):
            if any(output in self._tainted for output in node.outputs) or node.domain != "":
                continue
            if not used_only_by(node, inside):
                continue
            found = self._token_operands(node)
            rule = TOKEN_RULES.get(node.op_type)
            if rule is None or not found:
                continue
            try:
                layout = rule.layout(node, found, self._flow.mask)
            except NotTokenWise:
                continue
            if leading_layout(node.outputs[0], self._flow.mask) != layout:
                continue
            self._flow.layouts.update(found)
            self._flow.layouts[node.outputs[0]] = layout
            self._flow.packable.insert(0, node)
            inside.add(node)

    def _token_operands(self, node: ir.Node) -> dict[ir.Value, Layout]:
        found: dict[ir.Value, Layout] = {}
        for value in node.inputs:
            layout = leading_layout(value, self._flow.mask)
            if value is not None and layout is not None and constant_value(value) is None:
                found[value] = layout
        return found


def _is_start(node: ir.Node, mask: ir.Value) -> bool:
    """Whether dense work begins here: a product with weights, or a normalization.

    Or the ``Transpose`` before it of a model that computes on ``[sequence, batch, ...]``.
    """
    layout = leading_layout(node.inputs[0] if node.inputs else None, mask)
    if node.domain != "" or layout is None or layout.rank < 3:
        return False
    if node.op_type == "Transpose":
        return (permutation(node) or ())[:2] == (1, 0) and any(
            _is_dense(user) for user, index in node.outputs[0].uses() if index == 0
        )
    return _is_dense(node)


def _is_dense(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type not in _STARTS:
        return False
    return node.op_type != "MatMul" or constant_value(node.inputs[1]) is not None
