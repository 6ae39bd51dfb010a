"""Which nodes to run packed: a minimum cut.

A packable node costs its work on all ``B * S`` rows if it stays padded, and on the ``T`` kept ones
if it is packed; a value that crosses from one side to the other costs a pack or an unpack, once.
The cheapest assignment is a minimum cut (the project-selection problem), so that packing happens
once for many layers where that pays, and not at all where it does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import networkx
import onnx_ir as ir

from dechaff.ir import constant_value, node_cost, shape_expressions

from .flow import TokenFlow

NOMINAL_SIZES: Mapping[int, float] = {0: 16, 1: 128}
"""Batch and sequence at which costs are compared where the graph leaves them open."""

NOMINAL_DENSITY = 0.6
"""Share of valid tokens at which costs are compared: ByteTransformer's protocol, lengths uniform
in [0.2 S, S]."""

_FLOPS_PER_SECOND = 5e10
_BYTES_PER_SECOND = 1e10
"""Rough speed of one core's matrix product and of its memory: only their ratio matters here."""

_TICKS_PER_SECOND = 10**12
"""Capacities are whole numbers: a flow of floats leaves crumbs that decide ties by chance."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """The chosen assignment.

    Attributes:
        packed: nodes that run on packed tokens.
        work_seconds: estimated time of those nodes on padded rows.
        move_seconds: estimated time of the packs and unpacks.
    """

    packed: set[ir.Node]
    work_seconds: float
    move_seconds: float

    @property
    def break_even(self) -> float:
        """Density ``T / (B * S)`` below which packing pays."""
        return max(0.0, 1.0 - self.move_seconds / self.work_seconds) if self.work_seconds else 0.0


def place(flow: TokenFlow) -> Placement:
    """The cheapest side for each packable node."""
    sizes = _nominal_sizes(flow.mask)
    times = {node: _seconds(node, sizes) for node in flow.packable}
    network = _network(flow, times, sizes)
    cut, (source_side, _) = networkx.minimum_cut(network, "packed", "padded")
    cut /= _TICKS_PER_SECOND
    packed = {node for node in flow.packable if node in source_side}
    work = sum(times[node] for node in packed)
    stay = sum(times[node] for node in flow.packable if node not in packed)
    moves = max(0.0, cut - stay - sum(times[n] * _density(n, flow) for n in packed))
    return Placement(packed, work, moves)


def _nominal_sizes(mask: ir.Value) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for axis, dim in enumerate(mask.shape or ()):
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
            sizes[dim.value] = NOMINAL_SIZES[axis]
    return sizes


def _seconds(node: ir.Node, sizes: Mapping[str, float]) -> float:
    flops, moved = node_cost(node).at(sizes)
    return flops / _FLOPS_PER_SECOND + moved / _BYTES_PER_SECOND


def _density(node: ir.Node, flow: TokenFlow) -> float:
    """Share of the work that packing leaves; attention's shrinks with the square of lengths."""
    return NOMINAL_DENSITY**2 if node in flow.varlen else NOMINAL_DENSITY


def _move_seconds(value: ir.Value, sizes: Mapping[str, float]) -> float:
    """Time to pack or unpack a value: it is read on one side and written on the other."""
    dims = shape_expressions(value)
    if dims is None or value.dtype is None:
        return _FLOPS_PER_SECOND / _BYTES_PER_SECOND
    elements = 1.0
    for dim in dims:
        elements *= float(dim.subs({s: sizes.get(s.name, 1) for s in dim.free_symbols}))
    padded_bytes = elements * value.dtype.bitwidth / 8
    return padded_bytes * (1 + NOMINAL_DENSITY) / _BYTES_PER_SECOND


def _network(
    flow: TokenFlow, times: Mapping[ir.Node, float], sizes: Mapping[str, float]
) -> networkx.DiGraph[object]:
    """Source side: packed. Each value gets a helper vertex so that it is moved, and paid, once.

    An edge without a capacity is never cut.
    """
    network: networkx.DiGraph[object] = networkx.DiGraph()
    network.add_node("packed")
    network.add_node("padded")
    inside = set(flow.packable)
    forced = {output.producer() for output in flow.outputs}
    for node, seconds in times.items():
        if node in forced:
            network.add_edge("packed", node)
        else:
            network.add_edge("packed", node, capacity=_ticks(seconds))
        network.add_edge(node, "padded", capacity=_ticks(seconds * _density(node, flow)))
    for value in flow.layouts:
        if constant_value(value) is None:
            _add_value(network, value, inside, flow, _move_seconds(value, sizes))
    return network


def _ticks(seconds: float) -> int:
    return round(seconds * _TICKS_PER_SECOND)


def _add_value(
    network: networkx.DiGraph[object],
    value: ir.Value,
    inside: set[ir.Node],
    flow: TokenFlow,
    seconds: float,
) -> None:
    maker = value.producer()
    maker_vertex: object = maker if maker in inside else "padded"
    pack, unpack = ("pack", value), ("unpack", value)
    network.add_edge(pack, maker_vertex, capacity=_ticks(seconds))
    if maker in inside:
        network.add_edge(maker, unpack, capacity=_ticks(seconds))
    for node in {use.node for use in value.uses()}:
        if node in inside:
            network.add_edge(node, pack)
            network.add_edge(unpack, node)
        elif node not in flow.selections and node not in flow.shape_reads:
            network.add_edge(unpack, "padded")
    if value.is_graph_output():
        network.add_edge(unpack, "padded")
