"""Runs a module as it stands in plain ONNX Runtime, and makes inputs for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from dechaff.ir import Module, attach_functions, to_expression

Array = npt.NDArray[Any]

DEFAULT_SIZE = 3
SIZES: Mapping[str, int] = {"B": 2, "S": 5, "T": 7, "H": 3}
"""Sizes of the symbols that the tests' graphs use."""


def run_module(module: Module, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name; graph optimizations are off, dialect functions travel with the model."""
    module = module.clone()
    attach_functions(module)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # A weight that is packed ahead is summed in another order than one that is computed.
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(
        ir.to_proto(module.model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    wanted = {item.name for item in session.get_inputs()}
    results = session.run(names, {name: inputs[name] for name in wanted})
    return dict(zip(names, results, strict=True))


def random_inputs(
    module: Module, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, Array]:
    """Inputs for the graph's signature: normal floats, integers and bools of 0 and 1."""
    generator = np.random.default_rng(seed)
    values = {**SIZES, **(sizes or {})}
    inputs: dict[str, Array] = {}
    for value in module.graph.inputs:
        if value.is_initializer():
            continue
        assert value.name is not None
        assert value.shape is not None
        assert value.dtype is not None
        shape = [_concrete(dim, values) for dim in value.shape]
        inputs[value.name] = _random(generator, value.dtype, shape)
    return inputs


def _concrete(dim: int | ir.SymbolicDim, values: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    expression = to_expression(dim)
    if expression is None:
        return DEFAULT_SIZE
    known = {name: values.get(name.name, DEFAULT_SIZE) for name in expression.free_symbols}
    return int(expression.subs(known))


def _random(generator: np.random.Generator, dtype: ir.DataType, shape: list[int]) -> Array:
    if dtype.is_floating_point():
        return generator.standard_normal(shape).astype(dtype.numpy())
    return generator.integers(0, 2, shape).astype(dtype.numpy())
