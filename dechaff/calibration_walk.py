"""Activations of calibration data: one walk through a graph that is being edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from dechaff.backends import Session
from dechaff.ir import Module

from .arrays import Arrays


class ActivationWalk:
    """Walks batches of inputs through a graph, from one set of values to the next.

    Each node runs once, on all batches, and sees what was edited before it: a layer behind a
    quantized one is given what that one computes. Held in memory are the values that nodes ahead
    still need, and, while a stretch of the graph runs, its weights. Nothing is packed or optimized
    by the runtime: the numbers are those of the reference.
    """

    def __init__(self, module: Module, batches: Sequence[Arrays]) -> None:
        self._module = module
        self._held = [dict(batch) for batch in batches]
        self._done: set[ir.Node] = set()

    def advance(self, values: Sequence[ir.Value]) -> Iterator[Arrays]:
        """Compute values of the main graph on each batch; see ``passes.ActivationWalk``.

        Raises:
            RuntimeFailedError: the runtime fails on the inputs.
        """
        wanted = [value.name or "" for value in values]
        stretch = self._stretch(values)
        needed = self._needed_after(stretch)
        made = [v for node in stretch for v in node.outputs if v.name in {*needed, *wanted}]
        session = self._session(stretch, made) if made else None
        self._done.update(stretch)
        for held in self._held:
            if session is not None:
                held.update(session.run({name: held[name] for name in session.input_names}))
            found = {name: held[name] for name in wanted}
            for name in [name for name in held if name not in needed]:
                del held[name]
            yield found

    def _stretch(self, values: Sequence[ir.Value]) -> list[ir.Node]:
        """The nodes that have to run for the values, in order."""
        found: set[ir.Node] = set()
        pending = [value for value in values if value.name not in self._held[0]]
        while pending:
            maker = pending.pop().producer()
            if maker is None or maker in found or maker in self._done:
                continue
            found.add(maker)
            pending += [v for v in _read_by(maker) if v.name not in self._held[0]]
        return [node for node in self._module.graph if node in found]

    def _needed_after(self, stretch: Sequence[ir.Node]) -> set[str]:
        """Names of what the nodes behind the stretch read of what is before or in it."""
        passed = {*self._done, *stretch}
        ahead: set[ir.Node] = set()
        needed = {value.name or "" for value in self._module.graph.outputs}
        pending = [value.producer() for value in self._module.graph.outputs]
        while pending:
            node = pending.pop()
            if node is None or node in ahead or node in passed:
                continue
            ahead.add(node)
            read = _read_by(node)
            needed.update(value.name or "" for value in read)
            pending += [value.producer() for value in read]
        return needed

    def _session(self, stretch: Sequence[ir.Node], made: Sequence[ir.Value]) -> Session:
        inside = {output for node in stretch for output in node.outputs}
        constants = self._module.graph.initializers
        given = dict.fromkeys(
            value
            for node in stretch
            for value in _read_by(node)
            if value not in inside and (value.name not in constants or value.is_graph_input())
        )
        graph = ir.convenience.extract(self._module.graph, list(given), list(made))
        graph.opset_imports.update(self._module.graph.opset_imports)
        model = ir.Model(graph, ir_version=self._module.model.ir_version)
        for identifier, function in self._module.model.functions.items():
            model.functions[identifier] = function.clone()
        part = Module(model, source=self._module.source)
        return Session(part, graph_optimizations=False)


def _read_by(node: ir.Node) -> list[ir.Value]:
    """What a node and its subgraphs read from outside of it."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type is ir.AttributeType.GRAPH]
    inner = [other for graph in graphs for other in graph.all_nodes()]
    own = {value for other in inner for value in other.outputs}
    own |= {value for graph in graphs for value in (*graph.inputs, *graph.initializers.values())}
    read = [value for other in (node, *inner) for value in other.inputs if value is not None]
    return [value for value in read if value not in own]
