"""Parts that stay make up for parts that go: least squares on calibration data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dechaff.calibration import Calibration
from dechaff.ir import Module, UsageError, constant_value, num_parameters
from dechaff.passes import PassContext, apply_pass
from dechaff.passes.prune import Prune, PruneOptions
from dechaff.passes.reconstruction import (
    error_of_mean,
    order_of_least_harm,
    reconstruct,
    second_moments,
)
from dechaff.passes.residual_blocks import ResidualBlock, residual_blocks
from tests.model_runner import Array, run_module
from tests.passes.rewrite_checks import module_from, run_pass

TWINS = """
twins (float[B,S,3] x) => (float[B,S,3] y)
    <float[3,4] up = {1, 1, 0, 2,  0, 0, 1, -1,  1, 1, 1, 0}, float[4] shift = {0, 0, 9, 0},
     float[4,3] down = {...}, float[3] bias = {1, 2, 3}>
{
    wide = MatMul (x, up)
    shifted = Add (wide, shift)
    active = Relu (shifted)
    narrow = MatMul (active, down)
    biased = Add (narrow, bias)
    y = Add (biased, x)
}
"""
"""Features 0 and 1 are the same; feature 2 hardly varies."""

HEADS = """
heads (float[B,S,4] x, bool[B,S] valid) => (float[B,S,4] y)
    <float[4,4] wq = {...}, float[4,4] wk = {...}, float[4,4] wv = {...}, float[4,4] wo = {...},
     int64[1] axis_1 = {1}, int64[1] axis_2 = {2}, int64[1] one = {1}>
{
    rows = Unsqueeze (valid, axis_1)
    mask = Unsqueeze (rows, axis_2)
    length = Shape <start = 1, end = 2> (valid)
    ones = Concat <axis = 0> (one, one, length, length)
    keys = Expand (mask, ones)
    q = MatMul (x, wq)
    k = MatMul (x, wk)
    v = MatMul (x, wv)
    context = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, keys)
    out = MatMul (context, wo)
    y = Add (x, out)
}
"""


def calibration() -> Calibration:
    generator = np.random.default_rng(0)
    shape = (4, 6, 3)
    batches = [{"x": generator.standard_normal(shape).astype(np.float32)} for _ in range(8)]
    return Calibration(batches, "test")


def pruned(remove: str, *, reconstruct: bool, data: Calibration | None = None) -> Module:
    step = Prune(PruneOptions(remove, reconstruct=reconstruct))
    return run_pass(step, module_from(TWINS), PassContext(data or calibration()))[0]


def error(module: Module) -> float:
    batch = calibration().batches[0]
    return float(np.abs(run_module(module, batch)["y"] - expected(batch)).max())


def expected(batch: dict[str, Array]) -> Array:
    return run_module(module_from(TWINS), batch)["y"]


def test_the_twin_of_a_feature_takes_its_work_over() -> None:
    made = pruned("ffn.0.features.1", reconstruct=True)
    assert error(made) < 0.02 * error(pruned("ffn.0.features.1", reconstruct=False))
    assert num_parameters(made) == num_parameters(module_from(TWINS)) - 3 - 1 - 3


def test_the_bias_takes_over_what_hardly_varies() -> None:
    made = pruned("ffn.0.features.2", reconstruct=True)
    assert error(made) < 0.4 * error(pruned("ffn.0.features.2", reconstruct=False))
    assert sum(node.op_type == "Add" for node in made.graph) == 3


def test_without_a_bias_one_is_added() -> None:
    text = TWINS.replace("biased = Add (narrow, bias)\n", "").replace("(biased, x)", "(narrow, x)")
    step = Prune(PruneOptions("ffn.0.features.2", reconstruct=True))
    made, _ = run_pass(step, module_from(text), PassContext(calibration()))
    assert sum(node.op_type == "Add" for node in made.graph) == 3


def test_a_block_that_goes_leaves_what_it_added_in_the_mean() -> None:
    made = pruned("ffn.0", reconstruct=True)
    batches = calibration().batches
    added = np.concatenate([expected(batch) - batch["x"] for batch in batches]).reshape(-1, 3)
    left = run_module(made, batches[0])["y"] - batches[0]["x"]
    np.testing.assert_allclose(left[0, 0], added.mean(axis=0), rtol=1e-4)
    assert [node.op_type for node in made.graph] == ["Add"]


def test_what_is_not_named_is_not_fitted() -> None:
    module = module_from(TWINS.replace("down = {...}", "down = {0,0,0, 1,2,3, 1,0,1, 2,2,2}"))
    fitted, _ = run_pass(Prune(PruneOptions(reconstruct=True)), module, PassContext(calibration()))
    plain, _ = run_pass(Prune(), module)
    batch = calibration().batches[0]
    assert run_module(fitted, batch)["y"].tobytes() == run_module(plain, batch)["y"].tobytes()


def test_fitting_needs_data_and_says_so() -> None:
    step = Prune(PruneOptions("ffn.0.features.1", reconstruct=True))
    with pytest.raises(UsageError, match=r"prune\{reconstruct=true\} needs calibration data"):
        run_pass(step, module_from(TWINS))


def test_parts_that_the_others_make_up_for_go_first() -> None:
    module = module_from(TWINS)
    blocks = residual_blocks(module)
    moments = second_moments(module, blocks, calibration())
    order = order_of_least_harm(blocks[0], moments["ffn.0"], 4)
    assert order.parts[0] in (0, 1)


def weight_of(block: ResidualBlock) -> np.ndarray[Any, Any]:
    tensor = constant_value(block.last.inputs[1])
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


def outputs(remove: str) -> np.ndarray[Any, Any]:
    fitted, _ = run_pass(
        Prune(PruneOptions(remove, zeros=False, reconstruct=True)),
        module_from(TWINS),
        PassContext(calibration()),
    )
    return np.concatenate([run_module(fitted, batch)["y"] for batch in calibration().batches])


def test_the_error_foretold_is_that_of_the_pruned_model() -> None:
    module = module_from(TWINS)
    block = residual_blocks(module)[0]
    moments = second_moments(module, [block], calibration())["ffn.0"]
    order = order_of_least_harm(block, moments, 4)
    whole = outputs("")
    spread = whole - whole.reshape(-1, whole.shape[-1]).mean(axis=0)
    assert moments.energy == pytest.approx(float((spread**2).sum()), rel=1e-4)
    for count in (2, 3):
        gone = "+".join(f"ffn.0.features.{part}" for part in order.parts[:count])
        error = float(((outputs(gone) - whole) ** 2).sum())
        assert order.errors[count - 1] >= 0.999 * error  # the damping's share is on top of it
        kept = sorted(set(range(4)) - set(order.parts[:count]))
        fitted = reconstruct(block, moments, kept, 4)
        change = np.concatenate([weight_of(block), np.zeros((1, 3))])
        change[[*kept, 4]] -= np.concatenate([fitted.weight, fitted.shift[None]])
        expected = float(np.sum(change * (moments.damped @ change)))
        assert order.errors[count - 1] == pytest.approx(expected, rel=1e-6)
    error = float(((outputs("ffn.0") - whole) ** 2).sum())
    assert error_of_mean(block, moments) == pytest.approx(error, rel=1e-3)


def test_padding_does_not_count() -> None:
    module, generator = module_from(HEADS), np.random.default_rng(0)
    x = generator.standard_normal((4, 6, 4)).astype(np.float32)
    valid = np.arange(6) < np.array([6, 3, 1, 4])[:, None]
    noisy = np.where(valid[..., None], x, 1000 * x).astype(np.float32)
    found = [
        second_moments(
            module, residual_blocks(module), Calibration([{"x": each, "valid": valid}], "test")
        )["attention.0"]
        for each in (x, noisy)
    ]
    np.testing.assert_allclose(found[0].matrix, found[1].matrix, rtol=1e-5)
    assert found[0].matrix[-1, -1] == valid.sum()


READ_FIRST = TWINS.replace("=> (float[B,S,3] y)", "=> (float[B,3] y{outputs})")
READ_FIRST = READ_FIRST.replace("float[3] bias", "int64 first = {{0}}, float[3] bias")
READ_FIRST = READ_FIRST.replace(
    "y = Add (biased, x)", "s = Add (biased, x)\ny = Gather <axis = 1> (s, first)"
)


@pytest.mark.parametrize(("outputs", "tokens"), [("", 1), (", float[B,S,3] s", 6)])
def test_where_one_token_is_read_its_moments_count(outputs: str, tokens: int) -> None:
    text = READ_FIRST.replace("{outputs}", outputs).replace("{{0}}", "{0}")
    module = module_from(text)
    block = residual_blocks(module)[0]
    moments = second_moments(module, [block], calibration())["ffn.0"]
    names = ("up", "shift")
    up, shift = (constant_value(module.graph.initializers[name]) for name in names)
    assert up is not None
    assert shift is not None
    x = np.concatenate([batch["x"][:, :tokens] for batch in calibration().batches])
    active = np.maximum(x.reshape(-1, 3) @ up.numpy() + shift.numpy(), 0)
    rows = np.concatenate([active, np.ones((len(active), 1))], axis=1)
    np.testing.assert_allclose(moments.matrix, rows.T @ rows, rtol=1e-5)


def test_heads_are_fitted_too() -> None:
    module, generator = module_from(HEADS), np.random.default_rng(0)
    x = generator.standard_normal((16, 6, 4)).astype(np.float32)
    batch = {"x": x, "valid": np.ones((16, 6), np.bool_)}
    whole = run_module(module, batch)["y"]
    errors = []
    for fits in (False, True):
        step = Prune(PruneOptions("attention.0.heads.0", reconstruct=fits))
        made, _ = run_pass(step, module, PassContext(Calibration([batch], "test")))
        errors.append(float(((run_module(made, batch)["y"] - whole) ** 2).mean()))
    assert errors[1] < 0.9 * errors[0]


def test_it_is_worked_out_once_for_copies_of_a_module() -> None:
    context = PassContext(calibration())
    module, step = module_from(TWINS), Prune(PruneOptions("ffn.0.features.1", reconstruct=True))
    outputs = []
    for _ in range(2):
        copy = module.clone()
        apply_pass(copy, step, context=context)
        outputs.append(run_module(copy, calibration().batches[0])["y"].tobytes())
    assert outputs[0] == outputs[1]
    assert {"moments", "ffn.0 [0, 2, 3]"} == set(context.known)
    assert not context.fresh().known
