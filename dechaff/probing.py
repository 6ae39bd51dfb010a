"""Values inside a graph, made visible by running it with further outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

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
    return next(fetch_values_of_batches(module, names, [inputs]))


def fetch_values_of_batches(
    module: Module, names: Iterable[str], batches: Sequence[Mapping[str, Array]]
) -> Iterator[Arrays]:
    """Values of the main graph on each batch, by name, as :func:`fetch_values` gives them.

    A batch is run when it is asked for.

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
    session = Session(probe, graph_optimizations=False)
    for inputs in batches:
        found = session.run({name: inputs[name] for name in names_in if name in inputs})
        yield {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
