"""Proof on numbers: the graph before and the graph after run on the same inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dechaff.backends import RunningModel
from dechaff.ir import Module
from dechaff.passes import Numerics, PassRecord

from .arrays import Array
from .comparison import Difference, compare_arrays
from .disputes import Disputes, Truth
from .double_precision import run_in_double
from .reference import Reference, run_cases


@dataclasses.dataclass(frozen=True)
class OutputFigures:
    """How far one output is from the original's, over all cases.

    Attributes:
        output: name of the graph output.
        max_abs_error: largest difference on valid positions.
        limit: largest difference allowed, in the case that came nearest to its limit.
        case: that case.
        problem: what is wrong, or None if the output agrees in every case.
        settled: why what seemed a difference is none; None if nothing did.
    """

    output: str
    max_abs_error: float
    limit: float
    case: str
    problem: str | None
    settled: str | None = None


@dataclasses.dataclass(frozen=True)
class Verification:
    """The outcome of comparing a model with the original.

    Attributes:
        mode: ``final``, ``each`` or ``off``.
        outputs: figures per graph output; empty if nothing was compared.
        cases: names of the cases that ran.
        skipped: cases that the original itself does not run, with the runtime's reason.
        reason: why nothing was compared, or what limits the comparison; None if it is complete.
        earlier: whether an earlier run compared the same two models on the same inputs.
    """

    mode: str
    outputs: tuple[OutputFigures, ...] = ()
    cases: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    reason: str | None = None
    earlier: bool = False

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


def compare_outputs(
    reference: Sequence[Mapping[str, Array]],
    actual: Sequence[Mapping[str, Array]],
    masks: Sequence[Mapping[str, Array]],
    case_names: Sequence[str],
    numerics: Numerics,
    truths: tuple[Truth, Truth] | None = None,
) -> tuple[OutputFigures, ...]:
    """Compare two modules' outputs, one mapping by output name per case.

    Args:
        reference: the first's.
        actual: the second's.
        masks: valid positions by output, [B, S] or [B].
        case_names: names of the cases.
        numerics: the weakest promise of what lies between the two.
        truths: both modules in float64, to settle narrow misses; None settles none.
    """
    disputes = None if truths is None else Disputes(*truths, reference, actual, masks)
    names = list(dict.fromkeys(name for outputs in reference for name in outputs))
    figures: list[OutputFigures] = []
    for name in names:
        differences = [
            compare_arrays(left[name], right[name], mask.get(name), numerics)
            if name in right
            else Difference(float("inf"), 0.0, 0.0, "the optimized model has no such output")
            for left, right, mask in zip(reference, actual, masks, strict=True)
        ]
        if disputes is not None:
            differences = [disputes.settle(name, i, item) for i, item in enumerate(differences)]
        figures.append(_summarize(name, differences, case_names))
    return tuple(figures)


def truths_of(
    reference: Reference, module: Module, before: Module | None = None
) -> tuple[Truth, Truth]:
    """A module, the original if None is given, and a rewrite of it in float64, for each case."""

    def in_double(which: Module) -> Truth:
        return lambda case: run_in_double(which, reference.cases[case].inputs)

    return in_double(before or reference.module), in_double(module)


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
        settled=next((item.settled for item in differences if item.settled is not None), None),
    )


def _severity(difference: Difference) -> tuple[bool, float]:
    """Problems first, then the share of the limit that is used up."""
    share = difference.max_abs_error / difference.limit if difference.limit else 0.0
    return difference.problem is not None, share


def earlier_verification(data: dict[str, Any], mode: str) -> Verification:
    """A verification from the plain data that an earlier run kept."""
    return Verification(
        mode,
        tuple(OutputFigures(**item) for item in data["outputs"]),
        tuple(data["cases"]),
        tuple((name, reason) for name, reason in data["skipped"]),
        earlier=True,
    )


def verify_result(
    reference: Reference,
    optimized: Module,
    numerics: Numerics,
    mode: str,
    before_lowering: Module | None = None,
    compiled: RunningModel | None = None,
) -> Verification:
    """Compare an optimized module, as it will be served, with the original.

    Args:
        reference: the original's results.
        optimized: the module that will be served.
        numerics: the weakest promise among the passes that changed the graph.
        mode: the verification mode, for the record.
        before_lowering: the same module in operators that have a float64 form.
        compiled: generated code that serves the module in place of a runtime.

    Raises:
        VerificationFailedError: the optimized module does not run where the original does.
    """
    reference = reference.with_vocabulary(optimized.vocabulary)
    skipped = tuple(reference.skipped)
    if reference.reason is not None:
        return Verification(mode, skipped=skipped, reason=reference.reason)
    actual = run_cases(
        optimized, reference.cases, served=True, settings=reference.settings, compiled=compiled
    )
    names = [case.name for case in reference.cases]
    masks = reference.masks(optimized.valid_positions)
    truths = truths_of(reference, before_lowering or optimized)
    figures = compare_outputs(reference.outputs, actual, masks, names, numerics, truths)
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
