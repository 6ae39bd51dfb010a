"""What a branch or a loop body gives must be computed in it: a copy of what lies outside."""

from __future__ import annotations

import onnx_ir as ir


class OwnSubgraphOutputs(ir.passes.InPlacePass):
    """Copy by ``Identity`` each subgraph output that is a value of an outer graph.

    Merging equal nodes leaves such outputs behind, and ONNX Runtime refuses them.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit all subgraphs of the model."""
        modified = False
        for graph in model.graphs():
            if graph is model.graph:
                continue
            for position, value in enumerate(graph.outputs):
                if _belongs_to(value, graph):
                    continue
                graph.append(copy := ir.node("Identity", [value]))
                output = copy.outputs[0]
                output.name = f"{value.name}_copied_into_{graph.name or 'subgraph'}_{position}"
                output.type, output.shape = value.type, value.shape
                graph.outputs[position] = output
                modified = True
        return ir.passes.PassResult(model, modified)


def _belongs_to(value: ir.Value, graph: ir.Graph) -> bool:
    producer = value.producer()
    if producer is not None:
        return producer.graph is graph
    return value.is_graph_input() and value in graph.inputs
