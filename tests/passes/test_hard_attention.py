from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dechaff.backends import Session, lower
from dechaff.ir import Module, UsageError
from dechaff.passes import parse_pass_list, run_passes
from dechaff.passes.hard_attention import HardAttention, HardAttentionOptions
from tests.model_runner import Array, run_module
from tests.passes.rewrite_checks import check_declines, module_from

PACKED = """
    g (float[B,S,8] x, bool[B,S] mask) => (float[B,S,8] y)
    <int64 zero = {{0}}, int64 one = {{1}}, float[8,8] wq = {{...}}, float[8,4] wk = {{...}},
     float[8,4] wv = {{...}}>
    {{
        index, starts, position = dechaff.TokenLayout (mask)
        count = Size (index)
        keys = Range (zero, count, one)
        h = dechaff.Pack (x, index, mask)
        q = MatMul (h, wq)
        k = MatMul (h, wk)
        v = MatMul (h, wv)
        c = dechaff.VarlenAttention
            <q_num_heads = 4, kv_num_heads = 2, scale = 0.7, is_causal = {causal}>
            (q, k, v, starts, keys, starts)
        y = dechaff.Unpack (c, index, mask)
    }}
"""
PADDED = """
    g (float[B,S,8] x, bool[B,S] mask) => (float[B,S,8] y)
    <float[8,8] wq = {{...}}, float[8,4] wk = {{...}}, float[8,4] wv = {{...}},
     int64[2] axes = {{1, 2}}, int64[2] leading = {{1, 1}}, int64[1] last = {{1}}>
    {{
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        row = Unsqueeze (mask, axes)
        length = Shape <start = 1, end = 2> (mask)
        shape = Concat <axis = 0> (leading, length, last)
        keys = Expand (row, shape)
        y = Attention <q_num_heads = 4, kv_num_heads = 2, scale = 0.7, is_causal = {causal}>
            (q, k, v, keys)
    }}
"""
LAYOUTS = {"packed": PACKED, "padded": PADDED}
LENGTHS = ([7, 3, 1, 0, 9], [1], [40, 25])

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_direction = pytest.mark.parametrize("causal", [0, 1])


def graph(layout: str, causal: int = 0) -> Module:
    return module_from(LAYOUTS[layout].format(causal=causal))


def hardened(module: Module, **options: float) -> Module:
    after, records = run_passes(module.clone(), [HardAttention(HardAttentionOptions(**options))])  # type: ignore[arg-type]
    assert records[0].changed
    return after


def inputs_of(lengths: list[int]) -> dict[str, Array]:
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    x = np.random.default_rng(0).standard_normal((*mask.shape, 8)).astype(np.float32)
    return {"x": x, "mask": mask}


def weights(module: Module) -> dict[str, Array]:
    found = {}
    for name in ("wq", "wk", "wv"):
        tensor = module.graph.initializers[name].const_value
        assert tensor is not None
        found[name] = tensor.numpy().astype(np.float64)
    return found


def oracle(
    module: Module, inputs: dict[str, Array], causal: int, options: HardAttentionOptions
) -> Array:
    """Attention of each row and head in float64, with the keys kept that the options say."""
    w = weights(module)
    result = np.zeros((*inputs["mask"].shape, 8))
    for row, mask in enumerate(inputs["mask"]):
        x = inputs["x"][row][mask].astype(np.float64)
        q, k, v = (x @ w[name] for name in ("wq", "wk", "wv"))
        places = np.arange(len(x))
        distance = places[:, None] - places
        allowed = distance >= 0 if causal else np.ones_like(distance, bool)
        for head in range(4):
            columns, shared = slice(2 * head, 2 * head + 2), slice(head // 2 * 2, head // 2 * 2 + 2)
            scores = 0.7 * q[:, columns] @ k[:, shared].T
            kept = kept_keys(scores, allowed, distance, options)
            scores = np.where(kept, scores, -np.inf)
            p = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-1e30))
            p /= np.maximum(p.sum(axis=1, keepdims=True), 1e-300)
            result[row, np.flatnonzero(mask), columns] = p @ v[:, shared]
    return result


def kept_keys(
    scores: Array, allowed: Array, distance: Array, options: HardAttentionOptions
) -> Array:
    if options.is_local:
        first = np.arange(len(scores)) < options.num_global
        return np.asarray(allowed & ((abs(distance) <= options.window) | first | first[:, None]))
    kept = np.zeros_like(allowed)
    for query, row in enumerate(np.where(allowed, scores, -np.inf)):
        share = int(np.ceil(np.float32(options.fraction) * np.float32(allowed[query].sum())))
        count = max(1, options.k or share)
        kept[query, np.argsort(-row)[:count]] = True
    return kept & allowed


@each_layout
@each_direction
@pytest.mark.parametrize(
    "options",
    [{"k": 2}, {"fraction": 0.4}, {"window": 2}, {"window": 20}, {"window": 1, "num_global": 2}],
    ids=str,
)
def test_the_keys_kept_are_those_asked_for(
    options: dict[str, float], causal: int, layout: str
) -> None:
    module = graph(layout, causal)
    after = hardened(module, **options)
    served = Session(lower(after))
    chosen = HardAttentionOptions(**options)  # type: ignore[arg-type]
    for lengths in LENGTHS:
        inputs = inputs_of(lengths)
        valid = inputs["mask"]
        expected = oracle(module, inputs, causal, chosen)[valid]
        for found in (run_module(after, inputs)["y"], served.run(inputs)["y"]):
            np.testing.assert_allclose(found[valid], expected, rtol=1e-4, atol=1e-5)


@each_layout
@pytest.mark.parametrize("options", [{"k": 50}, {"fraction": 1.0}, {"window": 50}], ids=str)
def test_all_keys_are_the_model_to_the_bit(options: dict[str, float], layout: str) -> None:
    module = graph(layout)
    after = hardened(module, **options)
    for lengths in LENGTHS[:2]:
        inputs = inputs_of(lengths)
        valid = inputs["mask"]
        before = run_module(module, inputs)["y"][valid]
        assert np.array_equal(run_module(after, inputs)["y"][valid], before)


@pytest.mark.parametrize("options", [{"k": 2}, {"window": 2}], ids=str)
def test_rows_do_not_depend_on_each_other(options: dict[str, float]) -> None:
    served = Session(lower(hardened(graph("packed"), **options)))
    inputs = inputs_of([7, 3, 9])
    together = served.run(inputs)["y"]
    for row in range(3):
        alone = served.run({name: array[row : row + 1] for name, array in inputs.items()})["y"]
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-6)


def test_only_the_layers_asked_for_change() -> None:
    after, records = run_passes(graph("packed"), parse_pass_list("hard-attention{layers=2}"))
    assert not records[0].changed
    assert "VarlenAttention" in {node.op_type for node in after.graph}


def test_a_mask_of_numbers_stops_it() -> None:
    text = PADDED.format(causal=0).replace("bool[B,S] mask", "float[B,S] mask")
    check_declines(HardAttention(), text, "its mask is a number added to the scores")


def test_heads_split_before_stop_it() -> None:
    text = """
        g (float[B,2,S,4] q) => (float[B,2,S,4] y) { y = Attention (q, q, q) }
    """
    check_declines(HardAttention(), text, "its heads are split before it")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("k=2,fraction=0.5", "k or fraction, not both"),
        ("fraction=2", "a fraction of 0 to 1"),
        ("window=-3", "a window"),
        ("layers=x", "layers expects"),
    ],
)
def test_options_are_checked(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pass_list(f"hard-attention{{{options}}}")


def no_calibration() -> Any:
    """Hard attention proposes without a look at data."""
    return None


def test_a_search_adds_one_attention_at_a_time() -> None:
    step = HardAttention(HardAttentionOptions(k=2, layers="none"))
    (edit,) = step.edits(graph("packed"), no_calibration())
    assert edit.name == "attention 1"
    changed = edit.change(step.options)
    assert changed is not None
    assert changed.layers == "1"
    assert HardAttention(HardAttentionOptions(k=2)).edits(graph("packed"), no_calibration()) == []
