"""Packed operators of the dialect give on TVM what their reference functions give."""

from __future__ import annotations

import numpy as np
import pytest

from dechaff.backends.tvm import compile_module, resolve_target
from dechaff.ir import parse
from tests.model_runner import random_inputs, run_module

from .compiling import compare, compare_outputs

HEADER = '<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>\n'
MASKS = {
    "right": [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]],
    "interleaved": [[1, 0, 1, 0, 1], [0, 1, 0, 1, 1]],
    "none": [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    "empty row": [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0]],
    "empty": [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
}

PACKED = parse(
    HEADER
    + """
    g (float[B,S,8] x, float[1,S,8] row, bool[B,S] mask) => (float[B,S,8] y, token_index, bounds)
    {
        token_index, bounds, position = dechaff.TokenLayout (mask)
        packed = dechaff.Pack (x, token_index, mask)
        other = dechaff.Pack (row, token_index, mask)
        sum = Add (packed, other)
        y = dechaff.Unpack (sum, token_index, mask)
    }
    """
)


def test_tokens_are_packed_and_put_back_whatever_the_mask() -> None:
    compiled = compile_module(PACKED, resolve_target("llvm"))
    for mask in MASKS.values():
        inputs = random_inputs(PACKED) | {"mask": np.array(mask, bool)}
        compare_outputs(run_module(PACKED, inputs), compiled.run(inputs), 0.0)


@pytest.mark.parametrize("causal", [0, 1])
def test_packed_attention_keeps_to_its_sequence(causal: int) -> None:
    module = parse(
        HEADER
        + f"""
        g (float[T,8] q, float[T,4] k, float[T,4] v, int64[C] bounds, int64[K] keys, int64[C] ends)
            => (float[T,8] y)
        {{
            y = dechaff.VarlenAttention
                <q_num_heads = 4, kv_num_heads = 2, scale = 0.7, is_causal = {causal}>
                (q, k, v, bounds, keys, ends)
        }}
        """
    )
    compiled = compile_module(module, resolve_target("llvm"))
    layouts = [([0, 7], [0, 7]), ([0, 3, 3, 7], [0, 3, 3, 7]), ([0, 1, 7], [0, 1, 7])]
    for bounds, ends in layouts:
        inputs = random_inputs(module) | {
            "bounds": np.array(bounds, np.int64),
            "keys": np.arange(7, dtype=np.int64),
            "ends": np.array(ends, np.int64),
        }
        compare_outputs(run_module(module, inputs), compiled.run(inputs), 1e-6)
    # Whatever the offsets and the index say, nothing outside the tensors is read or written.
    wild = {"bounds": [-5, 900, 3], "keys": [10**12, -(10**12), 3], "ends": [-(10**9), 10**9, 4]}
    result = compiled.run(inputs | {name: np.array(item, np.int64) for name, item in wild.items()})
    assert np.isfinite(result["y"]).all()


def test_two_masks_keep_different_numbers_of_tokens() -> None:
    compare(
        HEADER
        + """
        g (float[B,S,8] x, bool[B,S] mask, bool[B,S] other) => (float[B,S,8] y, float[B,S,8] z)
        {
            index, bounds, position = dechaff.TokenLayout (mask)
            packed = dechaff.Pack (x, index, mask)
            y = dechaff.Unpack (packed, index, mask)
            index_2, bounds_2, position_2 = dechaff.TokenLayout (other)
            packed_2 = dechaff.Pack (y, index_2, other)
            z = dechaff.Unpack (packed_2, index_2, other)
        }
        """,
        [{}, {"B": 4, "S": 9}],
    )


def test_fused_operators_of_the_dialect() -> None:
    compare(
        HEADER
        + """
        g (float[B,S,8] x, float[B,S,8] skip, float[8] weight, float[8] bias, float[8] dense_bias)
            => (gelus, normal, sum, biased, biased_sum, root, root_sum)
        {
            gelus = dechaff.BiasGelu <approximate = "none"> (x, bias)
            normal, sum = dechaff.SkipLayerNormalization <epsilon = 1e-5> (x, skip, weight, bias)
            biased, biased_sum = dechaff.BiasSkipLayerNormalization <epsilon = 1e-5>
                (x, skip, weight, bias, dense_bias)
            root, root_sum = dechaff.SkipRMSNormalization <epsilon = 1e-5> (x, skip, weight)
        }
        """,
        [{}, {"B": 1, "S": 1}],
    )


def test_an_operator_without_an_emitter_runs_as_its_reference_function() -> None:
    mask = np.zeros((2, 1, 5, 5), np.float32)
    mask[:, :, :, 3:] = -2.0
    compare(
        HEADER
        + """
        g (float[7,8] q, float[7,8] k, float[7,8] v, float[B,1,S,S] attn_mask) => (float[7,8] y)
        <int64[3] bounds = {0, 4, 7}, int64[7] index = {0, 1, 2, 3, 5, 6, 7}>
        {
            y = dechaff.MaskedVarlenAttention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5>
                (q, k, v, bounds, index, attn_mask)
        }
        """,
        given={"attn_mask": mask},
    )
