from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dechaff.calibration import Calibration
from dechaff.ir import Module, UsageError
from dechaff.passes import PassContext, parse_pass_list, run_passes
from dechaff.passes.freeze_tokens import FreezeTokens, FreezeTokensOptions
from dechaff.passes.skip_unread_rows import SkipUnreadRows
from dechaff.search.searched_inputs import SearchedInputs
from tests.model_runner import Array, run_module
from tests.passes.rewrite_checks import module_from, relative_error, run_pass

LAYER = """
        q{i} = MatMul (h{i}, wq{i})
        kk{i} = MatMul (h{i}, wk{i})
        k{i} = Add (kk{i}, bk)
        v{i} = MatMul (h{i}, wv{i})
        c{i} = Attention <q_num_heads = 2, kv_num_heads = 2> (q{i}, k{i}, v{i}{mask})
        o{i} = MatMul (c{i}, wo{i})
        r{i} = Add (o{i}, h{i})
        h{next} = LayerNormalization (r{i}, gamma)
"""
WEIGHTS = ("wq", "wk", "wv", "wo")
MASK = """
        keys = Unsqueeze (valid, axes)
        length = Shape <start = 1, end = 2> (valid)
        grid = Concat <axis = 0> (ones, length, one)
        mask = Expand (keys, grid)
"""


def encoder(
    layers: int = 4, head: str = "y = Gather <axis = 1> (h{last}, first)", **given: str
) -> str:
    weights = ", ".join(f"float[4,4] {w}{i} = {{...}}" for i in range(layers) for w in WEIGHTS)
    body = "".join(
        LAYER.format(i=i, next=i + 1, mask=", mask" if "valid" in given else "")
        for i in range(layers)
    )
    return f"""
    g (float[B,S,4] h0{", bool[B,S] valid" if "valid" in given else ""})
        => (float[{given.get("shape", "B,4")}] y)
    <float[4] gamma = {{1, 1.5, 2, 0.5}}, float[4] bk = {{0.5, -1, 1, 0}}, int64 first = {{0}},
     int64[2] axes = {{1, 2}}, int64[2] ones = {{1, 1}}, int64[1] one = {{1}}, {weights}>
    {{
        {MASK if "valid" in given else ""}
        {body}
        {head.format(last=layers)}
    }}
    """


def batches(count: int = 6, seed: int = 0) -> list[dict[str, Array]]:
    generator = np.random.default_rng(seed)
    return [
        {
            "h0": generator.standard_normal((8, 6, 4)).astype(np.float32),
            "valid": np.arange(6) < generator.integers(1, 7, (8, 1)),
        }
        for _ in range(count)
    ]


def frozen(module: Module, after: int, *, reconstruct: bool = False) -> Module:
    options = FreezeTokensOptions(after, reconstruct)
    names = [value.name or "" for value in module.graph.inputs if not value.is_initializer()]
    data = [{name: batch[name] for name in names} for batch in batches(40)]
    made, _ = run_pass(FreezeTokens(options), module, PassContext(Calibration(data, "test")))
    return made


def by_hand(module: Module, x: Array, after: int) -> Array:
    """Layers as the module has them, keys and values of later ones from the states behind one."""
    weights: dict[str, Any] = {
        name: value.const_value.numpy()
        for name, value in module.graph.initializers.items()
        if value.const_value is not None
    }

    def heads(states: Array) -> Array:
        return states.reshape(*states.shape[:2], 2, 2).transpose(0, 2, 1, 3)

    state = still = x.astype(np.float64)
    for i in range(4):
        still = state if i <= after else still
        q, k, v = (
            heads(source @ weights[f"{name}{i}"] + bias)
            for name, source, bias in (
                ("wq", state, 0),
                ("wk", still, weights["bk"]),
                ("wv", still, 0),
            )
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(2)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        context = (shares / shares.sum(-1, keepdims=True)) @ v
        total = context.transpose(0, 2, 1, 3).reshape(state.shape) @ weights[f"wo{i}"] + state
        centred = total - total.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        state = centred / spread * weights["gamma"]
    return np.asarray(state[:, 0])


@pytest.mark.parametrize("after", [1, 2, 3])
def test_later_layers_read_keys_and_values_where_tokens_stand_still(after: int) -> None:
    module = module_from(encoder())
    x = batches(1)[0]["h0"]
    found = run_module(frozen(module, after), {"h0": x})["y"]
    np.testing.assert_allclose(found, by_hand(module, x, after), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("after", [0, 3, 4])
def test_where_nothing_stands_still_the_numbers_are_the_same_to_the_bit(after: int) -> None:
    module = module_from(encoder())
    x = batches(1)[0]["h0"]
    expected = run_module(module, {"h0": x})["y"]
    for reconstruct in (False, True):
        made = frozen(module, after, reconstruct=reconstruct)
        assert run_module(made, {"h0": x})["y"].tobytes() == expected.tobytes()


def test_fitted_keys_and_values_come_nearer() -> None:
    module = module_from(encoder(valid=""))
    given = batches(1, seed=9)[0]
    expected = run_module(module, given)["y"]
    plain, fitted = (
        relative_error(run_module(frozen(module, 2, reconstruct=fit), given)["y"], expected)
        for fit in (False, True)
    )
    assert fitted < 0.8 * plain


def test_other_tokens_of_later_layers_are_not_computed() -> None:
    module = frozen(module_from(encoder()), 2)
    skipped, record = run_pass(SkipUnreadRows(), module)
    assert record.changed
    shapes = [str(n.outputs[0].shape) for n in skipped.graph if n.op_type == "Attention"]
    assert shapes == ["[B,S,4]", "[B,S,4]", "[B,1,4]", "[B,1,4]"]


def test_packed_rows_are_independent_of_their_batch_mates() -> None:
    module = frozen(module_from(encoder(valid="")), 2, reconstruct=True)
    packed, _ = run_passes(module, parse_pass_list("remove-padding,skip-unread-rows"))
    attentions = [node for node in packed.graph if node.op_type == "VarlenAttention"]
    assert [str(node.outputs[0].shape) for node in attentions][2:] == ["[B,4]", "[B,4]"]
    given = batches(1)[0]
    together = run_module(packed, given)["y"]
    padded = run_module(module, given)["y"]
    np.testing.assert_allclose(together, padded, rtol=1e-4, atol=1e-5)
    for row in range(8):
        alone = run_module(packed, {name: array[row : row + 1] for name, array in given.items()})
        np.testing.assert_allclose(together[row : row + 1], alone["y"], rtol=1e-5, atol=1e-6)


def test_edits_are_the_layers_that_save_time_the_boldest_first() -> None:
    module = module_from(encoder())
    data = SearchedInputs([{"h0": batch["h0"]} for batch in batches()], "test")
    step = FreezeTokens()
    edits = step.edits(module, data)
    assert [edit.name for edit in edits] == ["after layer 1", "after layer 2"]
    assert edits[0].change(step.options) == FreezeTokensOptions(1, reconstruct=True)
    assert len({edit.place for edit in edits}) == 1
    assert step.is_idle
    assert step.saves == {"time"}


def test_no_edits_where_all_tokens_are_read() -> None:
    module = module_from(encoder(head="y = Relu (h{last})", shape="B,S,4"))
    data = SearchedInputs([{"h0": batch["h0"]} for batch in batches()], "test")
    assert list(FreezeTokens().edits(module, data)) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("k2 = Add (kk2, bk)", "k2 = CumSum (kk2, first)"), "one product with a constant matrix"),
        (("kk2 = MatMul (h2, wk2)", "kk2 = MatMul (h0, wk2)"), "not those of the tokens that ask"),
        (("(q2, k2, v2)", "(q2, q2, v2)"), "its query and key come from one product"),
    ],
)
def test_what_keeps_a_layer_as_it_is(change: tuple[str, str], reason: str) -> None:
    module = module_from(encoder().replace(*change))
    made, record = run_pass(FreezeTokens(FreezeTokensOptions(1)), module)
    assert reason in "\n".join(miss.reason for miss in record.misses)
    third = [node for node in made.graph if node.op_type == "Attention"][2]
    original = [node for node in module.graph if node.op_type == "Attention"][2]
    assert [v.name if v else None for v in third.inputs] == [
        v.name if v else None for v in original.inputs
    ]


def test_a_count_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="after counts layers, got -1"):
        parse_pass_list("freeze-tokens{after=-1}")


def test_fitting_needs_data() -> None:
    options = FreezeTokensOptions(1, reconstruct=True)
    with pytest.raises(UsageError, match="needs calibration data: give calibration="):
        run_pass(FreezeTokens(options), module_from(encoder()))
