"""Early exits where a layer has more to give than its state, and where one stack reads another."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from dechaff.backends import Session, lower
from dechaff.ir import Module
from dechaff.passes import Rewriter, run_passes
from dechaff.passes.early_exit import EarlyExit, EarlyExitOptions
from dechaff.passes.exits.stacks import find_stacks
from tests.model_runner import Array
from tests.passes.exit_graphs import decoder, encoder_decoder
from tests.passes.rewrite_checks import check_declines, module_from

LAYERS = 3


def with_exits(module: Module, **options: str) -> Session:
    after, records = run_passes(module.clone(), [EarlyExit(EarlyExitOptions(**options))])
    assert records[0].changed
    return Session(lower(after))


def cut_after(module: Module, stack_index: int, layer: int) -> Session:
    """The model whose layers after one change nothing; what they give beside is still theirs."""
    cut = module.clone()
    rewriter = Rewriter(cut)
    boundaries = find_stacks(cut.graph, rewriter)[stack_index].boundaries
    node = boundaries[-1].producer()
    assert node is not None
    with rewriter.rewrite("cut", [node]) as builder:
        for boundary in boundaries[layer:]:
            builder.replace(boundary, boundaries[layer - 1])
    return Session(lower(run_passes(cut, [])[0]))


def row_of(inputs: dict[str, Array], row: int) -> dict[str, Array]:
    return {name: array[row : row + 1] for name, array in inputs.items()}


def check_rows(served: Session, inputs: dict[str, Array], thresholds: dict[str, Array]) -> None:
    together = served.run({**inputs, **thresholds})
    for row in range(len(inputs["x"])):
        alone = served.run({**row_of(inputs, row), **thresholds})
        for name, array in together.items():
            np.testing.assert_allclose(alone[name][0], array[row], rtol=1e-5, atol=1e-6)


def check_equal(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


@functools.cache
def cached_decoder() -> Module:
    return module_from(decoder(LAYERS))


def cache_inputs(batch: int = 5, past: int = 3) -> dict[str, Array]:
    generator = np.random.default_rng(0)
    inputs = {"x": generator.standard_normal((batch, 1, 4)).astype(np.float32)}
    for layer in range(1, LAYERS + 1):
        for name in ("past_key", "past_value"):
            shape = (batch, past, 4)
            inputs[f"{name}{layer}"] = generator.standard_normal(shape).astype(np.float32)
    return inputs


@pytest.mark.parametrize(
    ("criterion", "never", "always"), [("similarity", 2, -2), ("entropy", -1, 99)]
)
def test_skipped_layers_fill_their_cache_with_their_own_weights(
    criterion: str, never: float, always: float
) -> None:
    served = with_exits(cached_decoder(), criterion=criterion)
    inputs = cache_inputs()
    check_equal(served.run(inputs), Session(lower(cached_decoder())).run(inputs))
    for layer in (1, 2):
        thresholds = np.full(LAYERS - 1, never, np.float32)
        thresholds[layer - 1] = always
        found = served.run({**inputs, "exit_thresholds": thresholds})
        check_equal(found, cut_after(cached_decoder(), 0, layer).run(inputs))


def test_a_cache_holds_each_row_as_if_it_were_alone() -> None:
    served = with_exits(cached_decoder())
    inputs = cache_inputs()
    thresholds = {"exit_thresholds": np.full(LAYERS - 1, 0.5, np.float32)}
    full, early = served.run(inputs), served.run({**inputs, **thresholds})
    left = np.abs(full["logits"] - early["logits"]).max(axis=(1, 2)) > 1e-4
    assert 0 < left.sum() < len(left)
    check_rows(served, inputs, thresholds)


def test_a_cache_whose_rows_are_not_its_first_axis_stops_it() -> None:
    text = decoder(2).replace("float[B,R,4] key2", "float[S,B,4] turned")
    text = text.replace("key2 = Concat <axis = 1> (past_key2, k2)", "key2 = Identity (k2)")
    turn = "Transpose <perm = [1, 0, 2]>"
    text = text.replace(
        "k2 = MatMul (n2, wk2)",
        f"""t2 = {turn} (n2)
            turned = Relu (t2)
            b2 = {turn} (turned)
            k2 = MatMul (b2, wk2)""",
    )
    check_declines(EarlyExit(), text, "rows are not its first axis")


@functools.cache
def translator() -> Module:
    return module_from(encoder_decoder())


def translator_inputs() -> dict[str, Array]:
    generator = np.random.default_rng(3)
    lengths = np.array([5, 2, 4, 1])
    return {
        "x": generator.standard_normal((4, 5, 4)).astype(np.float32),
        "mask": np.arange(5) < lengths[:, None],
        "y": generator.standard_normal((4, 3, 4)).astype(np.float32),
    }


NAMES = ("stack_1_exit_thresholds", "stack_2_exit_thresholds")


def test_encoder_and_decoder_exit_each_by_itself() -> None:
    served = with_exits(translator())
    inputs = translator_inputs()
    check_equal(served.run(inputs), Session(lower(translator())).run(inputs))
    for stack, name in enumerate(NAMES):
        found = served.run({**inputs, name: np.array([-2, 2], np.float32)})
        check_equal(found, cut_after(translator(), stack, 1).run(inputs))


def test_rows_of_an_encoder_decoder_do_not_depend_on_each_other() -> None:
    served = with_exits(translator())
    inputs = translator_inputs()
    for threshold in (0.5, 0.8, 0.9):
        check_rows(served, inputs, dict.fromkeys(NAMES, np.full(2, threshold, np.float32)))


def test_one_stack_may_be_chosen() -> None:
    after, records = run_passes(
        translator().clone(), [EarlyExit(EarlyExitOptions(stack="stack_2"))]
    )
    assert len(records[0].rewrites) == 1
    assert after.graph.inputs[-1].name == NAMES[1]


def test_modalities_exit_each_by_itself() -> None:
    model = module_from(encoder_decoder(with_image=True))
    served = with_exits(model)
    inputs = translator_inputs()
    generator = np.random.default_rng(5)
    inputs["image"] = generator.standard_normal((4, 7, 4)).astype(np.float32)
    check_equal(served.run(inputs), Session(lower(model)).run(inputs))
    for stack in range(3):
        early = {f"stack_{stack + 1}_exit_thresholds": np.array([-2, 2], np.float32)}
        check_equal(served.run({**inputs, **early}), cut_after(model, stack, 1).run(inputs))
    some = np.full(2, 0.8, np.float32)
    check_rows(served, inputs, {f"stack_{number}_exit_thresholds": some for number in (1, 2, 3)})
