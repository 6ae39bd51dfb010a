"""How far each value inside a graph is from the same value of another graph, on one case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dechaff.ir import DechaffError, Module
from dechaff.passes import Numerics

from .arrays import Array
from .comparison import Difference, compare_arrays
from .first_divergence import first_divergence, probe_values
from .input_generation import NO_PADDING, InputCase
from .model_verification import pair_interfaces
from .reference import Reference, run_cases
from .value_matching import match_values
from .verification import OutputFigures, compare_outputs


def errors_between(
    first: Module,
    second: Module,
    case: InputCase,
    mask: Array | None,
    wrong: Sequence[str],
    *,
    by_first: bool,
) -> dict[str, Any] | None:
    """The errors as ``trace.schema.json`` describes ``node_errors``, or None if none can be had.

    Args:
        first: the reference.
        second: another module; its inputs match by name or position.
        case: inputs of the first.
        mask: [B, S], not zero where positions are meaningful; None: all are.
        wrong: outputs of the first that differ, from which the first divergence is searched.
        by_first: whether errors belong to nodes of the first module alone, or to both modules'.
    """
    interface = pair_interfaces(first, second)
    matches = match_values(first, second, interface.inputs)
    try:
        feeds = interface.feeds(case)
        probe = probe_values(first, second, matches, case.inputs, feeds, mask)
    except DechaffError:
        return None  # some runtimes refuse further outputs
    divergence = first_divergence(first, second, probe, wrong)
    ours, theirs = _makers(first), {} if by_first else _makers(second)
    errors: dict[str, list[float]] = {}
    for name, other in probe.matches.items():
        found = _difference(probe.first[name], probe.second[name], mask)
        for node in {ours.get(name), theirs.get(other)} - {None}:
            errors.setdefault(str(node), [found.max_abs_error, found.limit])
    found_first = None
    if divergence is not None:
        found_first = theirs.get(divergence.other) or ours.get(divergence.value)
    return {"case": case.name, "errors": dict(sorted(errors.items())), "first": found_first}


def _makers(module: Module) -> dict[str, str]:
    return {value.name or "": node.name or "" for node in module.graph for value in node.outputs}


def _difference(reference: Array, actual: Array, mask: Array | None) -> Difference:
    if mask is not None and mask.ndim == 2 and reference.shape[:2] == mask.shape:
        reference, actual = reference[mask != 0], actual[mask != 0]
    return compare_arrays(reference, actual, None, Numerics.REASSOCIATES)


def errors_of_pass(
    before: Module, after: Module, reference: Reference, figures: Sequence[OutputFigures]
) -> dict[str, Any] | None:
    """Errors of every value that a pass left in the graph, in the case that fared worst."""
    if not figures:
        return None
    worst = max(figures, key=_severity)
    names = [case.name for case in reference.cases]
    index = names.index(worst.case)
    try:
        masks = reference.masks(after.valid_positions)
    except DechaffError:
        return None
    wrong = [item.output for item in figures if item.problem is not None]
    mask = next((mask for mask in masks[index].values() if mask.ndim == 2), None)
    case = reference.cases[index]
    return errors_between(before, after, case, mask, wrong, by_first=False)


def errors_of_models(
    first: Module, second: Module, cases: Sequence[InputCase]
) -> dict[str, Any] | None:
    """Errors of the values that two models share, in a case without padding if there is one.

    What a model computes for padding may differ, and mean nothing.
    """
    full = [case for case in cases if case.name == NO_PADDING]
    reference = Reference(first, full or cases[:1])
    if reference.reason is not None:
        return None
    interface = pair_interfaces(first, second)
    ours = {theirs: mine for mine, theirs in interface.outputs.items()}
    case = reference.cases[0]
    try:
        feeds = InputCase(case.name, interface.feeds(case))
        (made,) = run_cases(second, [feeds], served=False)
    except DechaffError:
        return None
    actual = {ours[name]: array for name, array in made.items() if name in ours}
    figures = compare_outputs(
        reference.outputs[:1], [actual], [{}], [case.name], Numerics.REASSOCIATES
    )
    wrong = [item.output for item in figures if item.problem is not None]
    return errors_between(first, second, case, None, wrong, by_first=True)


def _severity(figures: OutputFigures) -> tuple[bool, float]:
    share = figures.max_abs_error / figures.limit if figures.limit else 0.0
    return figures.problem is not None, share
