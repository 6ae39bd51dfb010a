"""Writes the packed graph: packs what comes in, repeats nodes on tokens, unpacks what goes out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, static_dim
from dechaff.ir.packing_ops import PACKED_TOKENS
from dechaff.passes.matching import float_attribute, integer_attribute, rank
from dechaff.passes.rewriter import Rewriter

from .flow import TokenFlow
from .layouts import Layout
from .mask_facts import Visibility
from .packed_sizes import head_sizes, last_size, unused_size
from .token_rule import Operands
from .token_rules import TOKEN_RULES

_INT64 = np.int64


class Packer(Operands):
    """Rewrites the nodes of a placement onto packed tokens."""

    def __init__(self, flow: TokenFlow, packed_nodes: set[ir.Node], rewriter: Rewriter) -> None:
        self.layouts = flow.layouts
        self.mask = flow.mask
        self._flow = flow
        self._nodes = [node for node in flow.packable if node in packed_nodes]
        self._rewriter = rewriter
        self._packed: dict[ir.Value, ir.Value] = {}
        self._broadcast: dict[tuple[ir.Value, Layout], ir.Value] = {}
        self._unpacked_sizes: dict[int, ir.Value] = {}

    def run(self) -> None:
        """Write the packed graph and connect it to the rest."""
        first = self._nodes[0]
        with self._rewriter.rewrite("token-layout", [first], before=first) as self.builder:
            self._write_token_layout()
        for node in self._nodes:
            with self._rewriter.rewrite("run-packed", [node], before=node) as self.builder:
                results = self._emit(node)
                self._packed.update(zip(node.outputs, results, strict=False))
        self._connect()

    def _emit(self, node: ir.Node) -> list[ir.Value]:
        if node in self._flow.varlen:
            return [self._emit_attention(node)]
        return TOKEN_RULES[node.op_type].emit(node, self)

    # The layout of tokens, shared by all layers.

    def _write_token_layout(self) -> None:
        self._keep = self._nonzero(self.mask)
        if self._flow.zero_is_valid:
            self._keep = self.builder.op("Not", [self._keep], name="keep_mask")
        self._valid = self._keep
        valid_layout = self._layout_node(self._valid)
        self._valid_index, self._starts, self._position = valid_layout
        if not self._flow.selections:
            self._token_index, self._key_starts = self._valid_index, self._starts
            self._key_index = self._all_tokens()
            return
        self._keep = self._with_selected_positions(self._valid)
        self._token_index, self._starts, self._position = self._layout_node(self._keep)
        keys = self._keys()
        _, self._key_starts, _ = self._layout_node(keys)
        self._key_index = self._kept_rows(keys)
        self._valid_rows = self._kept_rows(self._valid)

    def _keys(self) -> ir.Value:
        """Valid tokens; in rows without any, whatever is kept: attention needs a key."""
        build = self.builder
        counts = build.op("Cast", [self._valid], {"to": ir.DataType.INT64.value})
        length = build.op("ReduceSum", [counts, self._axes([1])], {"keepdims": 1})
        row_is_empty = build.op("Equal", [length, self._scalar(0, "zero")])
        return build.op("And", [self._keep, build.op("Or", [self._valid, row_is_empty])])

    def _kept_rows(self, mask: ir.Value) -> ir.Value:
        """Packed rows of the kept tokens where ``mask`` holds."""
        build, minus_one = self.builder, self._integers([-1], "minus_one")
        flat = build.op("Reshape", [mask, minus_one])
        chosen = build.op("Gather", [flat, self._token_index], {"axis": 0})
        return build.op("Reshape", [build.op("NonZero", [chosen]), minus_one])

    def _layout_node(self, keep: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        name = unused_size(self._rewriter.module)
        attributes = {} if name == PACKED_TOKENS.name else {"tokens": name}
        first = self.builder.op("TokenLayout", [keep], attributes, domain=DOMAIN, num_outputs=3)
        node = first.producer()
        outputs = node.outputs if node is not None else ()
        return outputs[0], outputs[1], outputs[2]

    def _nonzero(self, mask: ir.Value) -> ir.Value:
        if mask.dtype is ir.DataType.BOOL:
            return mask
        return self.builder.op("Cast", [mask], {"to": ir.DataType.BOOL.value}, name="keep_mask")

    def _all_tokens(self) -> ir.Value:
        count = self.builder.op("Size", [self._token_index])
        bounds = [self._scalar(0, "zero"), count, self._scalar(1, "one")]
        return self.builder.op("Range", bounds, name="key_index")

    def _with_selected_positions(self, valid: ir.Value) -> ir.Value:
        """Keep the positions that are picked later in every row, padding or not."""
        build = self.builder
        length = build.op(
            "Squeeze", [build.op("Shape", [valid], {"start": 1, "end": 2}), self._axes([0])]
        )
        positions = build.op(
            "Range", [self._scalar(0, "zero"), length, self._scalar(1, "one")], name="positions"
        )
        keep = valid
        for position in sorted({p for each in self._flow.selections.values() for p in each}):
            index = self._scalar(position, "picked")
            if position < 0:
                index = build.op("Add", [index, length])
            keep = build.op("Or", [keep, build.op("Equal", [positions, index])])
        return keep

    # Operands.

    def packed(self, value: ir.Value) -> ir.Value:
        """The packed form of a value with a token layout; packs it at its first use."""
        if value not in self._packed:
            self._packed[value] = self._pack(value, self.layouts[value])
        return self._packed[value]

    def _pack(self, value: ir.Value, layout: Layout) -> ir.Value:
        if layout.merged and layout.sequence_first:
            front = self._to_front(value, layout)
            return self._pack(self._apart(front, layout), layout.apart)
        if layout.merged:
            front = self._to_front(value, layout)
            return self.builder.op("Gather", [front, self._token_index], {"axis": 0})
        operands = [self._to_front(value, layout), self._token_index, self._keep]
        return self.builder.op("Pack", operands, domain=DOMAIN)

    def _apart(self, value: ir.Value, layout: Layout) -> ir.Value:
        """``[S, B, ...]`` of ``[S * B, ...]``."""
        sizes = [self._size_of(value, axis, layout.apart) for axis in (0, 1)]
        rest = self.builder.op("Shape", [value], {"start": 1})
        target = self.builder.op("Concat", [*sizes, rest], {"axis": 0})
        return self.builder.op("Reshape", [value, target], {"allowzero": 1})

    def _to_front(self, value: ir.Value, layout: Layout) -> ir.Value:
        perm = layout.moved_to_front()
        if perm == list(range(layout.rank)):
            return value
        return self.builder.op("Transpose", [value], {"perm": perm})

    def broadcast(self, value: ir.Value, layout: Layout) -> ir.Value:
        """An operand without tokens, aligned with packed values of ``layout``."""
        own_rank = rank(value) or 0
        shift = layout.rank - own_rank
        own_axes = [axis - shift for axis in sorted(layout.token_axes) if axis >= shift]
        shape = value.shape
        varies = shape is not None and any(static_dim(shape[axis]) != 1 for axis in own_axes)
        if not own_axes:
            return value
        if not varies:
            return self.builder.op("Squeeze", [value, self._axes(own_axes)])
        key = (value, layout)
        if key not in self._broadcast:
            if shift:
                value = self.builder.op("Unsqueeze", [value, self._axes(list(range(shift)))])
            self._broadcast[key] = self._pack(value, layout)
        return self._broadcast[key]

    # Attention.

    def _emit_attention(self, node: ir.Node) -> ir.Value:
        heads, kv_heads, head_size = head_sizes(node)
        rows = [self._joined_heads(value) for value in node.inputs[:3] if value is not None]
        scale = float_attribute(node, "scale")
        attributes = {
            "q_num_heads": heads,
            "kv_num_heads": kv_heads,
            "scale": head_size**-0.5 if scale is None else scale,
        }
        visible = self._flow.varlen[node]
        if visible is Visibility.MASKED:
            op_type, layout = "MaskedVarlenAttention", [self._token_index, node.inputs[3]]
        else:
            op_type, layout = "VarlenAttention", [self._key_index, self._key_starts]
            attributes["is_causal"] = int(visible is Visibility.CAUSAL)
        operands = [*rows, self._starts, *layout]
        context = self.builder.op(op_type, operands, attributes, domain=DOMAIN)
        if rank(node.inputs[0]) == 3:
            return context
        size = last_size(node.outputs[0])
        return self.builder.op("Reshape", [context, self._integers([0, heads, size], "split")])

    def _joined_heads(self, value: ir.Value) -> ir.Value:
        """``[T, H, d]`` as ``[T, H * d]``."""
        tokens = self.packed(value)
        if rank(value) == 3:
            return tokens
        heads = static_dim(value.shape[1]) if value.shape is not None else None
        size = last_size(value)
        width = heads * size if heads and size > 0 else -1
        return self.builder.op("Reshape", [tokens, self._integers([0, width], "join")])

    # The way out.

    def _connect(self) -> None:
        inside = set(self._nodes)
        results = [value for node in self._nodes for value in node.outputs]
        last = self._nodes[-1]
        with self._rewriter.rewrite("unpack", [last], before=last) as self.builder:
            for node in self._flow.shape_reads:
                self.builder.replace(node.outputs[0], self._shape_of(node))
            for node, positions in self._flow.selections.items():
                source = node.inputs[0]
                if source is not None and source in self._packed:
                    self.builder.replace(node.outputs[0], self._select(node, source, positions))
            for value in results:
                others = [use for use in value.uses() if use.node not in inside]
                others = [use for use in others if use.node not in self._flow.selections]
                others = [use for use in others if use.node not in self._flow.shape_reads]
                if others or value.is_graph_output():
                    self.builder.replace(value, self._unpack(value))
            for value in self._flow.outputs:
                if value not in self._packed:
                    self.builder.replace(value, self._without_padding(value))

    def _unpack(self, value: ir.Value) -> ir.Value:
        layout = self.layouts[value]
        tokens, index, mask = self._packed[value], self._token_index, self._keep
        if value.is_graph_output() and self._flow.selections:
            # Padding kept because it is picked is zero in an output all the same.
            tokens = self.builder.op("Gather", [tokens, self._valid_rows], {"axis": 0})
            index, mask = self._valid_index, self._valid
        full = self.builder.op("Unpack", [tokens, index, mask], domain=DOMAIN)
        if layout.merged:
            features = [static_dim(dim) or -1 for dim in list(value.shape or ())[1:]]
            shape = self._integers([-1, *features], "merged_shape")
            if layout.sequence_first:
                order = [1, 0, *range(2, layout.rank + 1)]
                full = self.builder.op("Transpose", [full], {"perm": order})
            return self.builder.op("Reshape", [full, shape])
        perm = layout.moved_to_front()
        if perm == list(range(layout.rank)):
            return full
        back = [perm.index(axis) for axis in range(layout.rank)]
        return self.builder.op("Transpose", [full], {"perm": back})

    def _without_padding(self, value: ir.Value) -> ir.Value:
        """A graph output that is computed padded, with zeros at padding."""
        operands = [value, self._valid_index, self._valid]
        tokens = self.builder.op("Pack", operands, domain=DOMAIN)
        return self.builder.op("Unpack", [tokens, *operands[1:]], domain=DOMAIN)

    def _select(self, node: ir.Node, source: ir.Value, positions: list[int]) -> ir.Value:
        """Rows of the packed value at the picked positions, in the selection's own layout."""
        layout, build = self.layouts[source], self.builder
        wanted = self._integers(positions, "picked")
        rows = build.op("Gather", [self._position, wanted], {"axis": 1})
        picked = build.op("Gather", [self._packed[source], rows], {"axis": 0})
        perm = layout.moved_to_front()
        if perm != list(range(layout.rank)):
            back = [perm.index(axis) for axis in range(layout.rank)]
            picked = build.op("Transpose", [picked], {"perm": back})
        if rank(node.outputs[0]) == layout.rank - 1:
            picked = build.op("Squeeze", [picked, self._axes([layout.sequence_axis])])
        return picked

    def _shape_of(self, node: ir.Node) -> ir.Value:
        """The shape of a value when padded: batch and sequence from the mask, the rest constant."""
        source = node.inputs[0]
        layout = self.layouts[source] if source is not None else Layout(0)
        start = integer_attribute(node, "start", 0)
        end = integer_attribute(node, "end", layout.rank)
        axes = list(range(layout.rank))[start:end]
        parts = [self._size_of(source, axis, layout) for axis in axes]
        return self.builder.op("Concat", parts, {"axis": 0})

    def _size_of(self, value: ir.Value | None, axis: int, layout: Layout) -> ir.Value:
        if axis not in layout.token_axes:
            size = static_dim(value.shape[axis]) if value is not None and value.shape else None
            return self._integers([-1 if size is None else size], "size")
        if layout.merged:
            count = self.builder.op("Size", [self.mask])
            return self.builder.op("Reshape", [count, self._integers([1], "one")])
        which = 0 if axis == layout.batch_axis else 1
        return self.builder.op("Shape", [self.mask], {"start": which, "end": which + 1})

    # Constants.

    def _integers(self, values: list[int], name: str) -> ir.Value:
        return self.builder.constant(np.array(values, _INT64), name)

    def _scalar(self, value: int, name: str) -> ir.Value:
        return self.builder.constant(np.array(value, _INT64), name)

    def _axes(self, axes: list[int]) -> ir.Value:
        return self._integers(axes, "axes")
