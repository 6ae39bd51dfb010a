"""How far the outputs move on calibration data when constants hold other numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dechaff.backends import Session, lower
from dechaff.ir import Module, UsageError, constant_value

from .arrays import Array, Arrays


class OutputTrials:
    """Runs a module with other numbers in some of its constants.

    These constants are inputs of one session, so that no trial loads the model anew.
    """

    def __init__(
        self, module: Module, batches: Sequence[Arrays], constants: Sequence[ir.Value]
    ) -> None:
        """Run the module as it is.

        Args:
            module: the module; it is not changed, and must not be while trials go on.
            batches: inputs by name.
            constants: initializers of the main graph that may hold other numbers.

        Raises:
            UsageError: no output is of floating-point numbers.
            RuntimeFailedError: the runtime fails on the inputs.
        """
        self._batches = batches
        self._constants = {value.name or "": _array(value) for value in constants}
        self._outputs = [
            value.name or ""
            for value in module.graph.outputs
            if value.dtype is not None and value.dtype.is_floating_point()
        ]
        if not self._outputs:
            raise UsageError(
                f"{module.source}: the error of its outputs cannot be measured, as none of them is "
                "of floating-point numbers"
            )
        self._session = Session(lower(_with_inputs(module, self._constants)))
        self._expected = list(self._run({}))

    def error(self, replaced: Mapping[ir.Value, Array]) -> float:
        """The squared change of the outputs, as a share of their squares; the mean over outputs.

        Args:
            replaced: other numbers for some of the constants, in their shapes.
        """
        arrays = {value.name or "": array for value, array in replaced.items()}
        sums = np.zeros((2, len(self._outputs)))
        for found, expected in zip(self._run(arrays), self._expected, strict=True):
            for place, (after, before) in enumerate(zip(found, expected, strict=True)):
                kept = np.isfinite(before)  # what is masked may be infinite
                size = before[kept].astype(np.float64)
                sums[:, place] += ((after[kept] - size) ** 2).sum(), (size**2).sum()
        changes, sizes = sums
        error = float(np.mean(changes / np.where(sizes > 0, sizes, 1.0)))
        return error if math.isfinite(error) else math.inf

    def _run(self, replaced: Mapping[str, Array]) -> Iterator[list[Array]]:
        fed = {**self._constants, **replaced}
        for batch in self._batches:
            found = self._session.run({**batch, **fed}, self._outputs)
            yield [found[name] for name in self._outputs]


def _with_inputs(module: Module, constants: Mapping[str, Array]) -> Module:
    """A copy of the module in which constants are inputs."""
    copy = module.clone()
    for name in constants:
        value = copy.graph.initializers.pop(name)
        value.const_value = None
        copy.graph.inputs.append(value)
    return copy


def _array(value: ir.Value) -> Array:
    tensor = constant_value(value)
    assert tensor is not None  # the caller names constants
    return np.ascontiguousarray(tensor.numpy())
