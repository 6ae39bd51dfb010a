"""Early exits of a vision-language model: two encoders with the same weights, and a decoder."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import pytest

from dechaff.backends import Session, lower
from dechaff.frontend import from_torch
from dechaff.ir import Module
from dechaff.passes import Rewriter, parse_pass_list, run_passes, tidy
from dechaff.passes.early_exit import EarlyExitOptions
from dechaff.passes.exits.exit_probe import probe_exits
from dechaff.passes.exits.skip_normalizations import split_skip_normalizations
from dechaff.passes.exits.stacks import find_stacks
from examples.picture_questions import make_questions
from tests.model_runner import Array

LAYERS = {"picture_encoder": 3, "question_encoder": 3, "decoder": 2}
LAYOUTS = {
    "padded": "default,-skip-unread-rows,-remove-padding",
    "packed": "default,-skip-unread-rows",
}
NEVER, ALWAYS = 2.0, -2.0

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_stack = pytest.mark.parametrize("stack", LAYERS)


def input_name(stack: str) -> str:
    return f"{stack}_exit_thresholds"


@functools.cache
def inputs() -> dict[str, Array]:
    return make_questions(2, seed=5, questions_each=3).inputs(np.arange(6))


@functools.cache
def captured() -> Module:
    import torch

    from examples.picture_question_model import PictureQuestionModel

    torch.manual_seed(0)
    model = PictureQuestionModel(24, num_heads=2, encoder_layers=3, decoder_layers=2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)  # so that layers change something
    example = {name: torch.from_numpy(array) for name, array in inputs().items()}
    return from_torch(model.eval(), example)


@functools.cache
def base(layout: str) -> Module:
    """With what ``early-exit`` takes apart taken apart: the same operators as beside exits."""
    module = run_passes(captured().clone(), parse_pass_list(LAYOUTS[layout]))[0]
    split_skip_normalizations(module, Rewriter(module))
    tidy(module)
    return module


@functools.cache
def served(layout: str, passes: str = "early-exit") -> Session:
    after, records = run_passes(base(layout).clone(), parse_pass_list(passes))
    assert all(record.changed for record in records)
    assert {value.name for value in after.graph.inputs} >= {input_name(stack) for stack in LAYERS}
    return Session(lower(after))


@functools.cache
def answers_without_exits(layout: str) -> Array:
    return next(iter(Session(lower(base(layout))).run(inputs()).values()))


def answers(session: Session, given: dict[str, Array], **thresholds: Array) -> Array:
    named = {input_name(stack): value for stack, value in thresholds.items()}
    return next(iter(session.run({**given, **named}).values()))


def leaving_after(stack: str, layer: int) -> Array:
    thresholds = np.full(LAYERS[stack] - 1, NEVER, np.float32)
    thresholds[layer - 1] = ALWAYS
    return thresholds


def cut_short(layout: str, depths: dict[str, int]) -> Session:
    """The model whose stacks end after some of their layers."""
    cut = base(layout).clone()
    for stack in find_stacks(cut.graph, Rewriter(cut)):
        if stack.name in depths:
            shorter = stack.boundaries[depths[stack.name] - 1]
            stack.boundaries[-1].replace_all_uses_with(shorter)
    return Session(lower(run_passes(cut, [])[0]))


def similarities(layout: str, stack: str) -> Array:
    """float[rows, exits], what the tests of a stack compare."""
    module = base(layout).clone()
    probe = probe_exits(module, EarlyExitOptions(stack=stack))
    tidy(module)
    found = Session(lower(module)).run(inputs())
    return np.stack([found[value.name or ""] for value in probe.scores], axis=1)


@each_layout
def test_thresholds_never_reached_give_the_model_itself(layout: str) -> None:
    assert np.array_equal(answers(served(layout), inputs()), answers_without_exits(layout))


@each_layout
@each_stack
def test_leaving_one_stack_changes_no_layer_of_the_others(stack: str, layout: str) -> None:
    """Its answers are those of the model of which this stack alone is shorter, to the bit."""
    for layer in range(1, LAYERS[stack]):
        found = answers(served(layout), inputs(), **{stack: leaving_after(stack, layer)})
        expected = answers(cut_short(layout, {stack: layer}), inputs())
        assert np.array_equal(found, expected)
        assert not np.allclose(found, answers_without_exits(layout), atol=1e-4)


@each_layout
def test_all_stacks_may_be_left_each_at_a_depth_of_its_own(layout: str) -> None:
    depths = {"picture_encoder": 2, "question_encoder": 1, "decoder": 1}
    thresholds = {stack: leaving_after(stack, layer) for stack, layer in depths.items()}
    found = answers(served(layout), inputs(), **thresholds)
    assert np.array_equal(found, answers(cut_short(layout, depths), inputs()))


@each_layout
def test_rows_leave_each_modality_by_themselves(layout: str) -> None:
    thresholds = {}
    for stack in LAYERS:
        scores = similarities(layout, stack)
        assert len(np.unique(scores[:, 0])) > 1
        thresholds[stack] = np.median(scores, axis=0).astype(np.float32)
    together = answers(served(layout), inputs(), **thresholds)
    changed = np.abs(together - answers_without_exits(layout)).max(axis=1) > 1e-5
    assert changed.any()
    for row in range(len(together)):
        one = {name: array[row : row + 1] for name, array in inputs().items()}
        alone = answers(served(layout), one, **thresholds)
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)


@each_layout
def test_a_pass_for_each_stack_gives_what_one_pass_for_all_does(layout: str) -> None:
    in_turn = ",".join(f"early-exit{{stack={stack}}}" for stack in LAYERS)
    found = served(layout, in_turn)
    assert np.array_equal(answers(found, inputs()), answers_without_exits(layout))
    for stack in LAYERS:
        early = {stack: leaving_after(stack, 1)}
        assert np.array_equal(
            answers(found, inputs(), **early), answers(served(layout), inputs(), **early)
        )


def test_one_file_runs_in_plain_onnx_runtime(tmp_path: pathlib.Path) -> None:
    import onnxruntime

    import dechaff

    path = tmp_path / "model.onnx"
    passes = "default,early-exit{stack=picture_encoder,threshold=0.9},early-exit{stack=decoder}"
    optimized = dechaff.optimize(captured().clone().model, passes=passes, verify="off")
    optimized.save(path)
    session = onnxruntime.InferenceSession(str(path))
    early = {input_name("decoder"): leaving_after("decoder", 1)}
    expected = next(iter(optimized.run({**inputs(), **early}).values()))
    found = session.run(None, {**inputs(), **early})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
