"""Runs a module by ONNX Runtime and by code that TVM generates for the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dechaff.backends.tvm import compile_module, resolve_target
from dechaff.ir import Module, parse
from tests.model_runner import Array, random_inputs, run_module


def compare(
    text: str,
    sizes: Sequence[Mapping[str, int]] = ({},),
    given: Mapping[str, Array] | None = None,
    tolerance: float = 2e-6,
) -> None:
    """Compile a graph once, and compare all its outputs at several sizes of its symbols.

    Args:
        text: the graph.
        sizes: sizes of symbols that differ from the usual ones, for each run.
        given: inputs that are not to be random.
        tolerance: largest difference, relative to values above 1.
    """
    module = parse(text)
    compiled = compile_module(module, resolve_target("llvm"))
    for index, each in enumerate(sizes):
        inputs = {**random_inputs(module, each, seed=index), **(given or {})}
        compare_outputs(run_module(module, inputs), compiled.run(inputs), tolerance)


def compare_outputs(
    expected: Mapping[str, Array], actual: Mapping[str, Array], tolerance: float
) -> None:
    """Same names, dtypes, shapes, and values within the tolerance."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        assert actual[name].shape == array.shape, name
        np.testing.assert_allclose(
            actual[name], array, rtol=tolerance, atol=tolerance, err_msg=name
        )


def refused(module: Module) -> str:
    """The message with which the backend refuses a module."""
    from dechaff.ir import DechaffError

    try:
        compile_module(module, resolve_target("llvm"))
    except DechaffError as error:
        return str(error)
    raise AssertionError("the module was compiled")
