"""Masks that say where padding is, masks found in the graph, and models of several masks."""

from __future__ import annotations

import numpy as np
import pytest

from dechaff.ir import Module
from dechaff.passes.remove_padding import RemovePadding
from tests.model_runner import Array, run_module
from tests.passes.rewrite_checks import assert_close
from tests.passes.test_remove_padding import MASKS, operators, random_states, remove_padding

ENCODER = """
        n{i} = LayerNormalization <axis = -1> ({states}, gamma)
        h{i} = MatMul (n{i}, w)
        keys{i} = Unsqueeze ({mask}, axes)
        bias{i} = Where (keys{i}, {if_true}, {if_false})
        length{i} = Shape <start = 1, end = 2> ({mask})
        sizes{i} = Concat <axis = 0> (leading, length{i}, one)
        written_out{i} = Expand (bias{i}, sizes{i})
        c{i} = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5>
            (h{i}, n{i}, n{i}, written_out{i})
        {result} = Add (c{i}, n{i})
"""
WEIGHTS = """<float[4] gamma = {1, 2, 3, 4}, float[4,4] w = {...}, float[9,4] table = {...},
    int64[2] axes = {1, 2}, int64[2] leading = {1, 1}, int64[1] one = {1}, int64 pad = {0},
    float lowest = {-1e30}, float nothing = {0}>"""


def encoder(mask: str, *, padding: bool, states: str = "x", i: int = 0, result: str = "y") -> str:
    shown, hidden = ("nothing", "lowest")
    if_true, if_false = (hidden, shown) if padding else (shown, hidden)
    return ENCODER.format(
        i=i, mask=mask, states=states, result=result, if_true=if_true, if_false=if_false
    )


def check(before: Module, after: Module, inputs: dict[str, Array], keep: dict[str, Array]) -> None:
    expected, found = run_module(before, inputs), run_module(after, inputs)
    for name, valid in keep.items():
        assert not found[name][~valid].any()
        assert_close(RemovePadding.numerics, found[name][valid], expected[name][valid], name)


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_that_is_true_at_padding(mask: str) -> None:
    text = f"g (float[B,S,4] x, bool[B,S] padding) => (float[B,S,4] y) {WEIGHTS} {{"
    before, after, _ = remove_padding(text + encoder("padding", padding=True) + "}")
    (positions,) = after.valid_positions
    assert (positions.output, positions.mask, positions.zero_is_valid) == ("y", "padding", True)
    assert "VarlenAttention" in operators(after)
    valid = np.array(MASKS[mask], bool)
    check(before, after, {"x": random_states(valid), "padding": ~valid}, {"y": valid})


@pytest.mark.parametrize("mask", ["left", "interleaved", "an empty row"])
def test_padding_told_by_its_id(mask: str) -> None:
    text = f"""g (int64[B,S] ids) => (float[B,S,4] y) {WEIGHTS} {{
        x = Gather (table, ids)
        padding = Equal (ids, pad)
    """
    before, after, record = remove_padding(text + encoder("padding", padding=True) + "}")
    assert record.changed, record.misses
    (positions,) = after.valid_positions
    assert (positions.mask, positions.zero_is_valid) == ("padding", True)  # ids are no mask
    valid = np.array(MASKS[mask], bool)
    ids = np.where(valid, np.arange(valid.size).reshape(valid.shape) % 8 + 1, 0)
    check(before, after, {"ids": ids}, {"y": valid})


def test_two_texts_are_packed_each_by_its_own_mask() -> None:
    first = encoder("mask", padding=False)
    second = encoder("other", padding=True, states="z", i=1, result="u")
    text = f"""g (float[B,S,4] x, float[B,T,4] z, bool[B,S] mask, bool[B,T] other)
        => (float[B,S,4] y, float[B,T,4] u) {WEIGHTS} {{{first}{second}}}"""
    before, after, _ = remove_padding(text)
    names = operators(after)
    assert names.count("VarlenAttention") == names.count("TokenLayout") == 2
    assert "Attention" not in names
    valid, others = np.array(MASKS["left"], bool), np.array(MASKS["interleaved"], bool)[:, :4]
    inputs = {
        "x": random_states(valid),
        "z": random_states(others, 1),
        "mask": valid,
        "other": ~others,
    }
    check(before, after, inputs, {"y": valid, "u": others})
