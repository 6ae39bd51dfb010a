"""``verify``: whether two models, however they were made, give the same answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.backends import SessionSettings, start_session
from dechaff.ir import (
    DechaffError,
    Module,
    UsageError,
    VerificationFailedError,
    stamp_origins,
)
from dechaff.passes import Numerics

from .arrays import Array, Arrays, runtime_inputs
from .closeness import Closeness, measure_closeness
from .disputes import Truth
from .double_precision import run_in_double
from .first_divergence import Divergence, first_divergence, probe_values
from .input_generation import InputCase, generate_inputs
from .model_comparison import ModelComparison, OutputComparison, earlier_comparison
from .model_files import load_module
from .model_import import batches_of, example_cases, import_model
from .reference import Reference
from .value_matching import match_values
from .verification import OutputFigures, compare_outputs
from .verification_cache import VerificationCache


def verify(a: Any, b: Any, inputs: Any = None, *, cache: bool = False) -> ModelComparison:
    """Compare two models on the same inputs, also ones that dechaff did not make.

    The first model runs as the reference, without runtime optimizations. Outputs and inputs match
    by name, or by position where the names differ. If ``b`` records which positions of its outputs
    are valid (dechaff removed padding), only these are compared and the others must be zero.

    Args:
        a: the path of an ONNX file, an ``onnx.ModelProto``, an ``onnx_ir.Model``, or a torch model
            (``inputs`` are then what it is called with).
        b: the other model, of any of these kinds.
        inputs: arrays by input name of ``a``, or a tuple; an iterable of these, such as a data
            loader, of which 64 are taken; the path of an ``.npz`` file; or None, which generates
            them from the signature.
        cache: whether an earlier agreement of the same models on the same inputs will do.

    Returns:
        Figures for each output; the first diverging intermediate value if they differ.

    Raises:
        ModelRejectedError: a model cannot be read, or the first does not run.
        InputRejectedError: the inputs do not fit the first model.
        UsageError: the two have different numbers of inputs or outputs.
    """
    batches = batches_of(inputs)
    first, second = _load(a, *batches[:1]), _load(b, *batches[:1])
    cases = example_cases(first, batches) or generate_inputs(first)
    kept = VerificationCache(use=cache)
    key = kept.key(first, second, cases, SessionSettings(), figures="closeness")
    earlier = kept.find(key)
    if earlier is not None:
        return earlier_comparison(earlier, first.source, second.source)
    found = compare_modules(first, second, cases)
    if found.agree:
        kept.keep(key, found.to_dict())
    return found


def _load(model: Any, inputs: Any = None) -> Module:
    if isinstance(model, (str, bytes)) or hasattr(model, "__fspath__"):
        return load_module(model)
    return import_model(model, inputs)


@dataclasses.dataclass(frozen=True)
class Interface:
    """Names of the second model's inputs and outputs by those of the first.

    Attributes:
        inputs: of the inputs.
        outputs: of the outputs.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def feeds(self, case: InputCase) -> Arrays:
        """The second model's inputs for a case of the first."""
        return {self.inputs[n]: array for n, array in case.inputs.items() if n in self.inputs}


def pair_interfaces(first: Module, second: Module) -> Interface:
    """Which inputs and outputs of two modules are the same: by name, else by position.

    Raises:
        UsageError: they have different numbers of them.
    """
    return Interface(
        _pair("input", first, second, runtime_inputs(first), runtime_inputs(second)),
        _pair("output", first, second, first.graph.outputs, second.graph.outputs),
    )


def _pair(
    kind: str, first: Module, second: Module, ours: Sequence[ir.Value], theirs: Sequence[ir.Value]
) -> dict[str, str]:
    """By name where all are found, else by position."""
    left = [value.name or "" for value in ours]
    right = [value.name or "" for value in theirs]
    if set(right) <= set(left) and kind == "input":
        return {name: name for name in right}  # a rewrite may leave an input without use
    if set(left) == set(right):
        return {name: name for name in left}
    if len(left) != len(right):
        raise UsageError(
            f"the models cannot be compared: {first.source} has the {kind}s {', '.join(left)}; "
            f"{second.source} has {', '.join(right)}"
        )
    return dict(zip(left, right, strict=True))


def compare_modules(first: Module, second: Module, cases: Sequence[InputCase]) -> ModelComparison:
    """Compare two modules; see :func:`verify`."""
    interface = pair_interfaces(first, second)
    reference = Reference(first, cases)
    reference.require()
    actual = _run_second(first, second, reference.cases, interface)
    names = [case.name for case in reference.cases]
    ours = {theirs: mine for mine, theirs in interface.outputs.items()}
    positions = [
        dataclasses.replace(item, output=ours.get(item.output, item.output))
        for item in second.valid_positions
    ]
    masks = reference.masks(positions)
    _blank_padding(first, reference, actual)
    numerics, truths = Numerics.REASSOCIATES, _truths(first, second, reference, interface)
    figures = compare_outputs(reference.outputs, actual, masks, names, numerics, truths)
    outputs = tuple(
        OutputComparison(item, _closeness(item.output, reference.outputs, actual, masks))
        for item in figures
    )
    result = ModelComparison(
        first.source, second.source, outputs, tuple(names), tuple(reference.skipped), None
    )
    if result.agree:
        return result
    return dataclasses.replace(
        result, divergence=_locate(first, second, interface, reference, figures, masks)
    )


def _truths(
    first: Module, second: Module, reference: Reference, interface: Interface
) -> tuple[Truth, Truth]:
    """Both models in float64, by the first's names."""

    def ours(case: int) -> Arrays:
        return run_in_double(first, reference.cases[case].inputs)

    def theirs(case: int) -> Arrays:
        found = run_in_double(second, interface.feeds(reference.cases[case]))
        return {mine: found[name] for mine, name in interface.outputs.items()}

    return ours, theirs


def _run_second(
    first: Module, second: Module, cases: Sequence[InputCase], interface: Interface
) -> list[Arrays]:
    try:
        session = start_session(second, on_trial=True)
        found = [session.run(interface.feeds(case)) for case in cases]
    except DechaffError as error:
        raise VerificationFailedError(
            f"{second.source} does not run where {first.source} does: {error}"
        ) from error
    return [{o: results[t] for o, t in interface.outputs.items()} for results in found]


def _blank_padding(first: Module, reference: Reference, actual: Sequence[Arrays]) -> None:
    """Where the first model gives zeros for padding, the second's numbers there mean nothing."""
    for item in first.valid_positions:
        for case, results in zip(reference.cases, actual, strict=True):
            mask = case.inputs.get(item.mask)
            array = results.get(item.output)
            if mask is None or array is None or item.per_row or array.shape[:2] != mask.shape:
                continue
            keep = item.kept(mask).reshape(mask.shape + (1,) * (array.ndim - 2))
            results[item.output] = np.where(keep, array, np.zeros_like(array))


def _closeness(
    name: str,
    reference: Sequence[Arrays],
    actual: Sequence[Arrays],
    masks: Sequence[Mapping[str, Array]],
) -> Closeness | None:
    pairs = []
    for left, right, mask in zip(reference, actual, masks, strict=True):
        keep = mask.get(name)
        if keep is None or left[name].shape[: keep.ndim] != keep.shape:
            pairs.append((left[name], right[name]))
        elif left[name].shape == right[name].shape:
            pairs.append((left[name][keep != 0], right[name][keep != 0]))
    return measure_closeness(pairs)


def _locate(
    first: Module,
    second: Module,
    interface: Interface,
    reference: Reference,
    figures: Sequence[OutputFigures],
    masks: Sequence[Mapping[str, Array]],
) -> Divergence | None:
    """The first diverging value in the case of the first wrong output."""
    stamp_origins(first.graph)
    wrong = [item for item in figures if item.problem is not None]
    index = [case.name for case in reference.cases].index(wrong[0].case)
    case = reference.cases[index]
    matches = match_values(first, second, interface.inputs)
    mask = next((m for m in masks[index].values() if m.ndim == 2), None)
    try:
        probe = probe_values(first, second, matches, case.inputs, interface.feeds(case), mask)
    except DechaffError:
        return None  # some runtimes refuse further outputs: the outputs' figures stand
    return first_divergence(first, second, probe, [item.output for item in wrong])
