"""Values inside a graph, made visible by running it with further outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir.passes.common as common_passes

from dechaff.backends import Session
from dechaff.ir import Module

from .arrays import Array, Arrays


def fetch_values(module: Module, names: Iterable[str], inputs: Mapping[str, Array]) -> Arrays:
    """Values of the main graph on these inputs, by name; runtime optimizations are off.

    Values that are no tensors are left out.

    Raises:
        DechaffError: the runtime rejects the model or fails on the inputs.
    """
    probe = module.clone()
    values = {value.name: value for node in probe.graph for value in node.outputs}
    wanted = [values[name] for name in dict.fromkeys(names) if name in values]
    probe.graph.outputs.clear()
    probe.graph.outputs.extend(wanted)
    common_passes.RemoveUnusedNodesPass()(probe.model)
    names_in = [value.name or "" for value in probe.graph.inputs]
    feeds = {name: inputs[name] for name in names_in if name in inputs}
    found = Session(probe, graph_optimizations=False).run(feeds)
    return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
