"""The one door through which passes edit a graph, and the record of what they did or missed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from dechaff.ir import (
    Module,
    ShapeData,
    infer_node,
    infer_shapes,
    inherit,
    node_text,
    origins,
)

from .pass_context import PassContext
from .rewrite_records import Miss, Rewrite, RewriteLimitReachedError
from .weight_file import WeightFile

_MAX_SWEEPS = 16


class GraphBuilder:
    """Appends nodes before an anchor, inferring shapes as it goes. Made by :class:`Rewriter`."""

    def __init__(self, rewriter: Rewriter, graph: ir.Graph, anchor: ir.Node | None) -> None:
        self._rewriter = rewriter
        self._graph = graph
        self._anchor = anchor
        self.nodes: list[ir.Node] = []

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        num_outputs: int = 1,
        name: str | None = None,
    ) -> ir.Value:
        """Add a node; give its first output (the others are ``value.producer().outputs``)."""
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=num_outputs)
        node.name = self._rewriter.fresh_name(name or op_type)
        for index, output in enumerate(node.outputs):
            suffix = "" if num_outputs == 1 else f"_{index}"
            output.name = self._rewriter.fresh_name(f"{name or op_type}_output{suffix}")
        if self._anchor is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._anchor, node)
        infer_node(node, self._rewriter.shape_data, self._rewriter.module.opset)
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: np.ndarray[Any, Any], name: str = "constant") -> ir.Value:
        """Add an initializer to the main graph, which subgraphs see too."""
        return self.tensor(ir.tensor(np.asarray(array, order="C")), name)

    def tensor(self, tensor: ir.TensorProtocol, name: str = "constant") -> ir.Value:
        """Add an initializer as :meth:`constant` does; the tensor may be lazy."""
        value = ir.Value(
            name=self._rewriter.fresh_name(name),
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape([size for size in tensor.shape if isinstance(size, int)]),
            const_value=tensor,
        )
        tensor.name = value.name
        self._rewriter.module.graph.register_initializer(value)
        return value

    def keep(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """An array for a new tensor; a large one lies in a file of the pass from now on."""
        return self._rewriter.weight_file.keep(array)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every use of ``old``, as graph output too, become a use of ``new``.

        A graph output keeps its name: it is part of the interface.
        """
        new.shape = new.shape if new.shape is not None else old.shape
        if new.dtype is None and old.dtype is not None:
            new.dtype = old.dtype
        if not old.is_graph_output():
            old.replace_all_uses_with(new)
            return
        maker = new.producer()
        if new.is_graph_output() or maker is None or maker.graph is not self._graph:
            new = self.op("Identity", [new])
        name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = self._rewriter.fresh_name(f"{name}_before")
        new.name = name


class Rewriter:
    """Edits one module during one pass.

    With a ``limit`` it applies that many rewrites and refuses the next one, before anything is
    edited, by an exception that ends the pass. Rules need not know: a search for the rewrite at
    fault runs the same pass with other limits.

    Attributes:
        module: the module being edited.
        rewrites: every application of a rule so far.
        misses: every near miss so far, each place and reason once.
        notes: remarks for the report, a line each.
        shape_data: symbolic contents of size vectors; see :class:`dechaff.ir.ShapeData`.
        context: what passes are told beside the graph.
        weight_file: where large new weights lie.
    """

    def __init__(
        self, module: Module, limit: int | None = None, context: PassContext | None = None
    ) -> None:
        self.module = module
        self.context = context or PassContext()
        self._limit = limit
        self.rewrites: list[Rewrite] = []
        self.misses: list[Miss] = []
        self.notes: list[str] = []
        self.shape_data = ShapeData()
        self.weight_file = WeightFile()
        self._names = _used_names(module)
        self._suffixes: dict[str, int] = {}  # the last one given to each stem: all below are taken

    def fresh_name(self, stem: str) -> str:
        """A name that no value or node of the module has; the same each run."""
        suffix = self._suffixes.get(stem, 0)
        name = f"{stem}_{suffix}" if suffix else stem
        while name in self._names:
            suffix += 1
            name = f"{stem}_{suffix}"
        self._names.add(name)
        self._suffixes[stem] = suffix
        return name

    def infer_shapes(self) -> None:
        """Fill in shapes anew, and forget what was not known of sizes before."""
        infer_shapes(self.module)
        self.shape_data = ShapeData()

    def miss(self, rule: str, node: ir.Node, reason: str) -> None:
        """Record why a rule did not apply at a node."""
        found = Miss(rule, node_text(node), reason)
        if found not in self.misses:
            self.misses.append(found)

    def note(self, text: str) -> None:
        """Add a remark to the report: what was decided, and why."""
        self.notes.append(text)

    @contextlib.contextmanager
    def rewrite(
        self, rule: str, old_nodes: Sequence[ir.Node], before: ir.Node | None = None
    ) -> Iterator[GraphBuilder]:
        """One application of a rule: new nodes go before ``before`` (the last old node if None).

        The old nodes stay until nothing uses them; the pass manager sweeps unused nodes away.

        Raises:
            RewriteLimitReachedError: no further rewrite is allowed.
        """
        self._check_limit()
        anchor = before or old_nodes[-1]
        graph = anchor.graph
        if not isinstance(graph, ir.Graph):
            raise TypeError(f"node {anchor.name!r} is in no graph that can be edited")
        builder = GraphBuilder(self, graph, anchor)
        yield builder
        inherit(builder.nodes, old_nodes, rule)
        self._record(rule, old_nodes, builder.nodes)

    def run(self, rule: str, library_pass: ir.passes.InPlacePass) -> bool:
        """Run a pass of the onnx-ir library; what it did is recorded as one rewrite.

        Returns:
            Whether it changed the model.
        """
        self._check_limit()
        before = dict.fromkeys(self.module.nodes())
        if not library_pass(self.module.model).modified:
            return False
        after = dict.fromkeys(self.module.nodes())
        removed = [node for node in before if node not in after]
        added = [node for node in after if node not in before]
        self._names |= _used_names(self.module)
        taken = {node.name for node in before}
        for node in added:
            if not node.name or node.name in taken:
                node.name = self.fresh_name(node.name or node.op_type)
            inherit([node], [], rule)
        self._record(rule, removed, added)
        return True

    def apply_rules(
        self, rules: Sequence[type[pattern.RewriteRuleClassBase]], *, note_misses: bool = True
    ) -> int:
        """Apply pattern rules everywhere, subgraphs included, until none fires.

        A rule's ``check`` that fails with a reason becomes a :class:`Miss`, unless
        ``note_misses`` is false.

        Returns:
            How often a rule fired.
        """
        compiled = [rule.rule() for rule in rules]  # type: ignore[no-untyped-call]
        applied = 0
        for _ in range(_MAX_SWEEPS):
            graphs = list(self.module.model.graphs())
            fired = sum(self._sweep(graph, compiled, note_misses) for graph in graphs)
            applied += fired
            if not fired:
                return applied
        names = ", ".join(rule.name or "?" for rule in compiled)
        raise RuntimeError(f"the rules {names} still fire after {_MAX_SWEEPS} sweeps")

    def _sweep(
        self, graph: ir.Graph, rules: Sequence[pattern.RewriteRule], note_misses: bool
    ) -> int:
        applied = 0
        tracer = _MissTracer(self) if note_misses else None
        for node in graph:
            for rule in rules:
                self._check_limit()
                delta = rule.try_rewrite(self.module.model, graph, node, tracer=tracer)
                if delta is None:
                    continue
                self._commit(graph, node, rule.name or "rule", delta)
                applied += 1
                break
        return applied

    def _commit(self, graph: ir.Graph, node: ir.Node, rule: str, delta: Any) -> None:
        for value in delta.new_initializers:
            value.name = self.fresh_name(value.name or "constant")
            self.module.graph.register_initializer(value)
        for new_node in delta.new_nodes:
            new_node.name = self.fresh_name(new_node.op_type)
            for output in new_node.outputs:
                output.name = self.fresh_name(f"{new_node.op_type}_output")
        old_nodes = list(delta.match.nodes)
        inherit(delta.new_nodes, old_nodes, rule)
        ir.convenience.replace_nodes_and_values(
            graph, node, old_nodes, delta.new_nodes, delta.match.outputs, delta.new_outputs
        )
        for new_node in delta.new_nodes:
            infer_node(new_node, self.shape_data, self.module.opset)
        self._record(rule, old_nodes, delta.new_nodes)

    def _check_limit(self) -> None:
        if self._limit is not None and len(self.rewrites) >= self._limit:
            raise RewriteLimitReachedError

    def _record(
        self, rule: str, old_nodes: Sequence[ir.Node], new_nodes: Sequence[ir.Node]
    ) -> None:
        sources = dict.fromkeys(name for node in old_nodes for name in origins(node))
        names = tuple(node.name or "" for node in new_nodes)
        self.rewrites.append(Rewrite(rule, tuple(sources), names))


class _MissTracer(pattern.MatchingTracer):
    """Turns failed checks of pattern rules into recorded misses."""

    def __init__(self, rewriter: Rewriter) -> None:
        super().__init__()
        self._rewriter = rewriter

    def log(self, rule: Any, container: Any, node: ir.Node, match_result: Any, status: Any) -> None:
        if status is pattern.MatchStatus.CONDITION_FAILED and match_result.reason:
            self._rewriter.miss(rule.name, node, match_result.reason)


def _used_names(module: Module) -> set[str]:
    names: set[str] = set()
    for graph in module.model.graphs():
        names.update(value.name or "" for value in graph.inputs)
        names.update(graph.initializers)
        for node in graph:
            names.add(node.name or "")
            names.update(output.name or "" for output in node.outputs)
    return names
