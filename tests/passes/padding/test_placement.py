from __future__ import annotations

import itertools

import pytest

from dechaff.ir import Module
from dechaff.passes.padding.placement import Placement, place
from dechaff.passes.padding.token_flow import analyze
from tests.passes.rewrite_checks import module_from

DENSE = """
    g (float[B,S,256] x, bool[B,S] mask, bool[1,1,S,S] window) => (float[B,S,256] y)
    <float[256] gamma = {...}, float[256,256] w = {...},
     int64[2] axes = {1, 2}, int64[2] leading = {1, 1},
     int64[1] one = {1}>
    {
        keys = Unsqueeze (mask, axes)
        length = Shape <start = 1, end = 2> (mask)
        mask_shape = Concat <axis = 0> (leading, length, one)
        key_mask = Expand (keys, mask_shape)
        seen = And (window, key_mask)
        %s
    }
"""
ATTENTION = "Attention <q_num_heads = 4, kv_num_heads = 4, scale = 0.1>"
CAPPED = "Attention <q_num_heads = 4, kv_num_heads = 4, scale = 0.1, softcap = 2.0>"
"""One that has no packed form."""


def placement_of(body: str) -> tuple[Placement, Module]:
    module = module_from(DENSE % body)
    return place(analyze(module, module.graph.inputs[1])), module


def packed_operators(body: str) -> list[str]:
    placement, module = placement_of(body)
    return [node.op_type for node in module.graph if node in placement.packed]


def test_one_stretch_from_the_first_dense_layer_to_the_output() -> None:
    body = f"""
        n = LayerNormalization <axis = -1> (x, gamma)
        h = MatMul (n, w)
        c = {ATTENTION} (h, h, h, key_mask)
        r = Add (c, n)
        g = MatMul (r, w)
        y = Gelu (g)
    """
    expected = ["LayerNormalization", "MatMul", "Attention", "Add", "MatMul", "Gelu"]
    assert packed_operators(body) == expected


def test_dense_layers_around_attention_that_must_stay_padded_are_packed() -> None:
    body = f"""
        n = LayerNormalization <axis = -1> (x, gamma)
        h = MatMul (n, w)
        c = {CAPPED} (h, h, h, seen)
        g = MatMul (c, w)
        k = MatMul (g, w)
        m = MatMul (k, w)
        y = MatMul (m, w)
    """
    assert packed_operators(body).count("MatMul") >= 4
    assert "Attention" not in packed_operators(body)


def test_what_is_cheaper_to_compute_than_to_move_stays_padded() -> None:
    body = f"""
        n = LayerNormalization <axis = -1> (x, gamma)
        c = {CAPPED} (n, n, n, seen)
        s = Sigmoid (c)
        d = {CAPPED} (s, s, s, seen)
        e = MatMul (d, w)
        f = MatMul (e, w)
        g = MatMul (f, w)
        y = MatMul (g, w)
    """
    assert "Sigmoid" not in packed_operators(body)


@pytest.mark.parametrize("layers", [1, 8])
def test_more_work_for_the_same_moves_raises_the_break_even(layers: int) -> None:
    names = ["n", *(f"h{index}" for index in range(layers - 1)), "y"]
    products = "\n".join(f"{b} = MatMul ({a}, w)" for a, b in itertools.pairwise(names))
    placement, _ = placement_of(f"n = LayerNormalization <axis = -1> (x, gamma)\n{products}")
    single, _ = placement_of("n = LayerNormalization <axis = -1> (x, gamma)\ny = MatMul (n, w)")
    assert 0 < single.break_even <= placement.break_even < 1
