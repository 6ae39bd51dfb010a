"""Runs on numbers: the original as the reference, and what is compared with it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir.passes.common as common_passes

from dechaff.backends import RunOverdueError, Session, SessionSettings
from dechaff.ir import (
    DechaffError,
    Module,
    ValidPositions,
    VerificationFailedError,
    constant_value,
)

from .arrays import Array, Arrays
from .input_generation import InputCase
from .isolation import limited_memory


class Reference:
    """The original module's results on every case it runs, without runtime optimizations.

    Attributes:
        module: the original.
        settings: threads, affinity and memory it runs with, and what is compared with it.
        cases: the cases that the original runs.
        outputs: the original's outputs, by name, for each of these.
        skipped: the other cases, with the reason.
        reason: why no case ran, or None.
    """

    def __init__(
        self, module: Module, cases: Sequence[InputCase], settings: SessionSettings | None = None
    ) -> None:
        self.module = module
        self.settings = settings
        self.cases: list[InputCase] = []
        self.outputs: list[Arrays] = []
        self.skipped: list[tuple[str, str]] = []
        self.reason: str | None = None
        self._masks: dict[str, list[Array]] = {}
        try:
            session = Session(module, graph_optimizations=False, settings=settings)
        except DechaffError as error:
            self.reason = f"the original does not load in ONNX Runtime: {error}"
            return
        except MemoryError as error:
            self.reason = _no_memory(error)
            return
        for case in cases:
            try:
                self.outputs.append(session.run(case.inputs))
                self.cases.append(case)
            except RunOverdueError as error:
                self.reason = f"case {case.name!r} of the original: {error}"
                return  # the next case would not end either
            except DechaffError as error:
                self.skipped.append((case.name, str(error)))
            except MemoryError as error:
                self.skipped.append((case.name, _no_memory(error)))
        if not self.cases:
            first = f": {self.skipped[0][1]}" if self.skipped else ""
            self.reason = (
                f"the original runs on none of the inputs{first}; give example_inputs that fit it"
            )

    def masks(self, positions: Sequence[ValidPositions]) -> list[dict[str, Array]]:
        """For each case, the mask [B, S] or [B] of each output that has valid positions.

        Raises:
            VerificationFailedError: the original has no such value.
        """
        for item in positions:
            if item.mask not in self._masks:
                self._masks[item.mask] = self._fetch(item.mask)
        return [
            {item.output: _valid_part(item, self._masks[item.mask][index]) for item in positions}
            for index in range(len(self.cases))
        ]

    def _fetch(self, name: str) -> list[Array]:
        """A value of the original, which need not be a graph output, in every case."""
        if all(name in case.inputs for case in self.cases):
            return [case.inputs[name] for case in self.cases]
        if all(name in outputs for outputs in self.outputs):
            return [outputs[name] for outputs in self.outputs]
        probe = self.module.clone()
        values = {value.name or "": value for node in probe.graph for value in node.outputs}
        values.update(probe.graph.initializers)
        if name not in values:
            raise VerificationFailedError(
                f"{self.module.source}: the mask {name!r} of valid positions is no value of the "
                "original graph, so they cannot be checked"
            )
        constant = constant_value(values[name])
        if constant is not None:
            return [constant.numpy()] * len(self.cases)
        probe.graph.outputs.clear()
        probe.graph.outputs.append(values[name])
        common_passes.RemoveUnusedNodesPass()(probe.model)
        session = Session(probe, graph_optimizations=False, settings=self.settings)
        return [session.run(case.inputs)[name] for case in self.cases]


def _no_memory(error: MemoryError) -> str:
    """Why a case does not run; under a limit on memory it is the limit that must be told.

    Raises:
        MemoryError: memory is limited, so that more of it may be had.
    """
    if limited_memory() is not None:
        raise error
    return f"out of memory: {error}"


def _valid_part(item: ValidPositions, mask: Array) -> Array:
    return (mask != 0).any(axis=1) if item.per_row else mask


def run_cases(
    module: Module,
    cases: Sequence[InputCase],
    *,
    served: bool,
    settings: SessionSettings | None = None,
) -> list[Arrays]:
    """Outputs of a module on every case.

    Args:
        module: the module.
        cases: the inputs.
        served: run as it will be served, runtime optimizations included; else as a reference.
        settings: threads, affinity and memory; the defaults if None.

    Raises:
        VerificationFailedError: the module does not load or run where the original does.
        MemoryError: there is too little memory to run it.
    """
    try:
        session = Session(module, graph_optimizations=served, settings=settings, on_trial=True)
        return [session.run(case.inputs) for case in cases]
    except DechaffError as error:
        raise VerificationFailedError(
            f"the optimized model does not run where the original does: {error}"
        ) from error
