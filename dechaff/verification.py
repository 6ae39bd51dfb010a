"""Proof on numbers: the graph before and the graph after run on the same inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir.passes.common as common_passes

from dechaff.backends import RunningModel, Session, SessionSettings, start_session
from dechaff.ir import (
    DechaffError,
    Module,
    ValidPositions,
    VerificationFailedError,
    constant_value,
)
from dechaff.passes import Numerics, PassRecord

from .arrays import Array, Arrays
from .comparison import Difference, compare_arrays
from .compilation import runnable
from .input_generation import InputCase

if TYPE_CHECKING:
    from dechaff.backends.tvm.compiled_model import CompiledModel


@dataclasses.dataclass(frozen=True)
class OutputFigures:
    """How far one output is from the original's, over all cases.

    Attributes:
        output: name of the graph output.
        max_abs_error: largest difference on valid positions.
        limit: largest difference allowed, in the case that came nearest to its limit.
        case: that case.
        problem: what is wrong, or None if the output agrees in every case.
    """

    output: str
    max_abs_error: float
    limit: float
    case: str
    problem: str | None


@dataclasses.dataclass(frozen=True)
class Verification:
    """The outcome of comparing a model with the original.

    Attributes:
        mode: ``final``, ``each`` or ``off``.
        outputs: figures per graph output; empty if nothing was compared.
        cases: names of the cases that ran.
        skipped: cases that the original itself does not run, with the runtime's reason.
        reason: why nothing was compared, or what limits the comparison; None if it is complete.
    """

    mode: str
    outputs: tuple[OutputFigures, ...] = ()
    cases: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    reason: str | None = None

    @property
    def verified(self) -> bool:
        """Whether outputs were compared, against a tolerance, and agree."""
        return (
            bool(self.outputs)
            and self.reason is None
            and all(figures.problem is None for figures in self.outputs)
        )

    @property
    def problem(self) -> str | None:
        """The first disagreement in words, or None."""
        for figures in self.outputs:
            if figures.problem is not None:
                return f"output {figures.output!r}, case {figures.case!r}: {figures.problem}"
        return None


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
        for case in cases:
            try:
                self.outputs.append(session.run(case.inputs))
                self.cases.append(case)
            except DechaffError as error:
                self.skipped.append((case.name, str(error)))
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
            {item.output: item.meaningful(self._masks[item.mask][index]) for item in positions}
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


def run_cases(
    module: Module,
    cases: Sequence[InputCase],
    *,
    served: bool,
    settings: SessionSettings | None = None,
    compiled: RunningModel | None = None,
) -> list[Arrays]:
    """Outputs of a module on every case.

    Args:
        module: the module.
        cases: the inputs.
        served: run as it will be served, runtime optimizations included; else as a reference.
        settings: threads, affinity and memory; the defaults if None.
        compiled: what serves the module in place of a runtime.

    Raises:
        VerificationFailedError: the module does not load or run where the original does.
    """
    try:
        session: RunningModel
        if compiled is not None:
            session = compiled
        elif served:
            session = start_session(module, settings)
        else:
            session = Session(module, graph_optimizations=False, settings=settings)
        return [session.run(case.inputs) for case in cases]
    except DechaffError as error:
        raise VerificationFailedError(
            f"the optimized model does not run where the original does: {error}"
        ) from error


def compare_outputs(
    reference: Sequence[Mapping[str, Array]],
    actual: Sequence[Mapping[str, Array]],
    masks: Sequence[Mapping[str, Array]],
    case_names: Sequence[str],
    numerics: Numerics,
) -> tuple[OutputFigures, ...]:
    """Compare two modules' outputs, one mapping by output name per case."""
    names = list(dict.fromkeys(name for outputs in reference for name in outputs))
    figures: list[OutputFigures] = []
    for name in names:
        differences = [
            compare_arrays(left[name], right[name], mask.get(name), numerics)
            if name in right
            else Difference(float("inf"), 0.0, 0.0, "the optimized model has no such output")
            for left, right, mask in zip(reference, actual, masks, strict=True)
        ]
        figures.append(_summarize(name, differences, case_names))
    return tuple(figures)


def _summarize(
    name: str, differences: Sequence[Difference], case_names: Sequence[str]
) -> OutputFigures:
    worst = max(range(len(differences)), key=lambda index: _severity(differences[index]))
    return OutputFigures(
        output=name,
        max_abs_error=max(difference.max_abs_error for difference in differences),
        limit=differences[worst].limit,
        case=case_names[worst],
        problem=differences[worst].problem,
    )


def _severity(difference: Difference) -> tuple[bool, float]:
    """Problems first, then the share of the limit that is used up."""
    share = difference.max_abs_error / difference.limit if difference.limit else 0.0
    return difference.problem is not None, share


def verify_result(
    reference: Reference,
    optimized: Module,
    numerics: Numerics,
    mode: str,
    compiled: CompiledModel | None = None,
) -> Verification:
    """Compare an optimized module, as it will be served, with the original.

    Args:
        reference: the original's results.
        optimized: the module that will be served.
        numerics: the weakest promise among the passes that changed the graph.
        mode: the verification mode, for the record.
        compiled: generated code that serves the module, if this machine can run it.

    Raises:
        VerificationFailedError: the optimized module does not run where the original does.
    """
    skipped = tuple(reference.skipped)
    if reference.reason is not None:
        return Verification(mode, skipped=skipped, reason=reference.reason)
    actual = run_cases(
        optimized,
        reference.cases,
        served=True,
        settings=reference.settings,
        compiled=runnable(compiled),
    )
    names = [case.name for case in reference.cases]
    masks = reference.masks(optimized.valid_positions)
    figures = compare_outputs(reference.outputs, actual, masks, names, numerics)
    reason = None
    if numerics is Numerics.APPROXIMATE:
        reason = "an approximate pass ran: its errors are measured, not judged"
    return Verification(mode, figures, tuple(names), skipped, reason)


def weakest_numerics(records: Sequence[PassRecord]) -> Numerics:
    """The weakest promise among the passes that changed the graph.

    Lowering and the runtime choose other kernels, so that it is never stronger than reassociation.
    """
    changed = {record.numerics for record in records if record.changed}
    if Numerics.APPROXIMATE.value in changed:
        return Numerics.APPROXIMATE
    return Numerics.REASSOCIATES
