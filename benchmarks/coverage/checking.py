"""Runs one family through one door, and says what was found."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.exports import quiet
from dechaff.backends import lower
from dechaff.input_generation import generate_inputs
from dechaff.ir import DechaffError, Module
from dechaff.ir.attention_ops import PACKED_ATTENTIONS
from dechaff.model_import import batches_of, example_cases, import_model
from dechaff.passes import PassRecord, parse_pass_list, run_passes
from dechaff.reference import Reference
from dechaff.verification import verify_result, weakest_numerics

from .building import Axes, Inputs, build_model, example_inputs
from .families import Family
from .speed import machine_state, measure_speed

if TYPE_CHECKING:
    import torch

DOORS = ("torch", "onnx18", "onnx23")
"""``torch``: the module itself. ``onnx18``: a file that torch exported at opset 18."""

TARGETS = ("cpu", "portable")
_ATTENTIONS = ("Attention", *PACKED_ATTENTIONS)
_REASON_LENGTH = 250


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one family through one door.

    Attributes:
        family: its name.
        door: how the model came in.
        captured: whether a frontend took the model.
        attentions: attentions known as such in the optimized graph.
        expected: attentions that the model has.
        packed_nodes: operations that run on valid tokens alone.
        packed_attentions: attentions among them.
        verified: whether the outputs are the original's, for every target.
        reason: why padding stays, or what went wrong; empty if nothing did.
        speed: how many times as fast as the original; None if that was not measured.
        timed: the state the machine was in while it was timed; empty if it was not.
    """

    family: str
    door: str
    captured: bool = False
    attentions: int = 0
    expected: int = 0
    packed_nodes: int = 0
    packed_attentions: int = 0
    verified: bool = False
    reason: str = ""
    speed: float | None = None
    timed: str = ""


def check(family: Family, door: str, folder: pathlib.Path, speed: bool = False) -> Outcome:
    """Capture, optimize with the default passes, lower for both targets, verify.

    Args:
        family: the kind of model.
        door: one of ``DOORS``.
        folder: for the exported file.
        speed: also time it beside the original; only meaningful where nothing else runs.
    """
    start = Outcome(family.name, door, expected=family.attentions)
    try:
        module, inputs = capture(family, door, folder)
    except Exception as error:  # what fails here is anybody's code; the page tells what
        return dataclasses.replace(start, reason=f"not captured: {_one_line(error)}")
    return _optimize(dataclasses.replace(start, captured=True), module, inputs, speed)


def capture(family: Family, door: str, folder: pathlib.Path) -> tuple[Module, Inputs]:
    """The module of a family that came in through a door, and the inputs it is called with."""
    with quiet():
        model = build_model(family)
        inputs, axes = example_inputs(family, model)
        if door == "torch":
            return import_model(model, inputs), inputs
        path = folder / f"{door}.onnx"
        opset = int(door.removeprefix("onnx"))
        try:
            _export(model, path, opset, inputs, axes)
        except Exception:  # torch's exporter: it fails in many ways, mostly over whole attention
            if not _spell_attention_out(model):
                raise
            _export(model, path, opset, inputs, axes)
        return import_model(path, inputs), inputs


def _spell_attention_out(model: torch.nn.Module) -> bool:
    """Let a model of transformers write attention in primitive operators; False if it cannot."""
    models: list[Any] = [m for m in model.modules() if hasattr(m, "set_attn_implementation")]
    for part in models[:1]:
        part.set_attn_implementation("eager")
    return bool(models)


def _export(
    model: torch.nn.Module, path: pathlib.Path, opset: int, inputs: Inputs, axes: Axes
) -> None:
    import torch

    from dechaff.frontend.torch_program_repairs import experts_in_standard_operators

    names = sorted({name for each in axes.values() for name in each.values()})
    sizes = {name: torch.export.Dim(name) for name in names}
    shapes = {
        name: {axis: sizes[size] for axis, size in axes.get(name, {}).items()} for name in inputs
    }
    with experts_in_standard_operators(model):
        torch.onnx.export(
            model,
            (),
            str(path),
            kwargs=inputs,
            input_names=list(inputs),
            dynamic_shapes=shapes,
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )


def _optimize(outcome: Outcome, module: Module, inputs: Inputs, speed: bool) -> Outcome:
    original = module.clone()
    try:
        cases = example_cases(module, batches_of(inputs))
        reference = Reference(module.clone(), cases + generate_inputs(module))
        optimized, records = run_passes(module, parse_pass_list("default"))
        outcome = dataclasses.replace(outcome, **_findings(optimized, records))
        for target in TARGETS:
            proof = verify_result(
                reference, lower(optimized, target), weakest_numerics(records), "final"
            )
            problem = proof.problem or proof.reason
            if problem is not None:
                return dataclasses.replace(outcome, reason=f"{target}: {_one_line(problem)}")
        if speed and cases:
            timed = machine_state()
            ratio = measure_speed(original, optimized, cases[0].inputs)
            outcome = dataclasses.replace(outcome, speed=ratio, timed=timed)
    except DechaffError as error:
        return dataclasses.replace(outcome, reason=_one_line(error))
    return dataclasses.replace(outcome, verified=True)


def _findings(module: Module, records: Sequence[PassRecord]) -> dict[str, Any]:
    nodes = list(module.graph)
    removal = next(record for record in records if record.name == "remove-padding")
    packed = sum(rewrite.rule == "run-packed" for rewrite in removal.rewrites)
    return {
        "attentions": sum(node.op_type in _ATTENTIONS for node in nodes),
        "packed_nodes": packed,
        "packed_attentions": sum(node.op_type in PACKED_ATTENTIONS for node in nodes),
        "reason": "" if packed else _why_padding_stays(removal),
    }


def _why_padding_stays(removal: PassRecord) -> str:
    """In the pass's words, with the operator that stopped it."""
    for miss in removal.misses:
        if miss.reason == "no mask tells padding from tokens":
            return "it takes no padding mask"
        return f"{_operator(miss.node)}: {miss.reason}"
    return next((note.removeprefix("remove-padding: ") for note in removal.notes), "no reason")


def _operator(node: str) -> str:
    """``Reshape`` of ``float[B] y = Reshape (x)``."""
    found = re.search(r"= ([\w.]+)", node)
    return found[1] if found else node[:40]


def _one_line(problem: object) -> str:
    """The problem itself: of torch's exporter, what it was caused by."""
    while isinstance(problem, BaseException) and problem.__cause__ is not None:
        problem = problem.__cause__
    text = " ".join(str(problem).split()) or type(problem).__name__
    return text[:_REASON_LENGTH]
