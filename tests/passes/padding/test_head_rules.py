"""Token rules of what stands between projections and attention: rotary positions, head axes."""

from __future__ import annotations

import numpy as np
import pytest

from dechaff.ir import Module
from dechaff.passes import PassRecord
from dechaff.passes.remove_padding import RemovePadding
from tests.passes.rewrite_checks import check_declines
from tests.passes.test_remove_padding import (
    MASKS,
    check_on_mask,
    operators,
    remove_padding,
)

DECODER = """
    g (float[B,S,4] x, bool[B,S] mask{inputs}) => (float[B,S,4] y)
    <float[4] gamma = {{1, 2, 3, 4}}, float[4,8] wq = {{...}}, float[4,4] wk = {{...}},
     float[8,4] wo = {{...}}, float[1,1,2] frequency = {{1, 0.1}}, float tenth = {{0.1}},
     float[9,2] table = {{...}},
     int64[2] axes = {{1, 2}}, int64[1] last = {{2}}, int64[1] front = {{0}}, int64[1] one = {{1}},
     int64 zero = {{0}}, int64 step = {{1}},
     int64[2] leading = {{1, 1}}, int64[4] split = {{0, 0, 2, 4}},
     int64[4] k_split = {{0, 0, 1, 4}},
     int64[3] join = {{0, 0, 8}}, int64[1] width = {{2}}, int64[2] angle_axes = {{0, 2}},
     int64[4] repeated = {{1, 2, 1, 1}}, int64[5] copies = {{1, 1, 2, 1, 1}},
     int64[5] by_two = {{0, 0, 0, 2, 2}}, int64[4] whole = {{0, 0, 0, 4}}>
    {{
        n = LayerNormalization <axis = -1> (x, gamma)
        q0 = MatMul (n, wq)
        q3 = Mul (q0, tenth)
        k3 = MatMul (n, wk)
        qs = Reshape (q3, split)
        q4 = Transpose <perm = [0, 2, 1, 3]> (qs)
        ks = Reshape (k3, k_split)
        k4 = Transpose <perm = [0, 2, 1, 3]> (ks)
        total = Shape <start = 1, end = 2> (mask)
        count = Squeeze (total, front)
        positions = Range (zero, count, step)
        column = Unsqueeze (positions, angle_axes)
        floats = Cast <to = 1> (column)
        angles = Mul (floats, frequency)
        cosines = Cos (angles)
        sines = Sin (angles)
        batch = Shape <start = 0, end = 1> (q4)
        rest = Concat <axis = 0> (batch, total, width)
        cosine = Expand (cosines, rest)
        sine = Expand (sines, rest)
        {rotate}
        keys = Unsqueeze (mask, axes)
        mask_shape = Concat <axis = 0> (leading, total, one)
        key_mask = Expand (keys, mask_shape)
        c4 = Attention <scale = 0.5> (q, k, v, key_mask)
        cs = Transpose <perm = [0, 2, 1, 3]> (c4)
        c = Reshape (cs, join)
        y = MatMul (c, wo)
    }}
"""

REPEAT_BY_EXPAND = "k = Expand (kr, repeated)\n v = Expand (k4, repeated)"
ROTATIONS = {
    "angles written out for each row": (
        f"""
        q = RotaryEmbedding (q4, cosine, sine)
        kr = RotaryEmbedding (k4, cosine, sine)
        {REPEAT_BY_EXPAND}
        """,
        "",
    ),
    "angles looked up by position": (
        f"""
        q = RotaryEmbedding (q4, table, table, ids)
        kr = RotaryEmbedding (k4, table, table, ids)
        {REPEAT_BY_EXPAND}
        """,
        ", int64[B,S] ids",
    ),
    "heads side by side": (
        f"""
        qr = RotaryEmbedding <num_heads = 2> (q3, cosine, sine)
        qrs = Reshape (qr, split)
        q = Transpose <perm = [0, 2, 1, 3]> (qrs)
        kr = RotaryEmbedding (k4, cosine, sine)
        {REPEAT_BY_EXPAND}
        """,
        "",
    ),
    "keys repeated by way of a new axis": (
        """
        pairs = Reshape (q4, by_two)
        qp = Reshape (pairs, whole)
        q = RotaryEmbedding <interleaved = 1> (qp, cosine, sine)
        kr = RotaryEmbedding <interleaved = 1> (k4, cosine, sine)
        k5 = Unsqueeze (kr, last)
        k55 = Expand (k5, copies)
        k = Squeeze (k55, one)
        v = Expand (k4, repeated)
        """,
        "",
    ),
}


def decoder(rotate: str, inputs: str = "") -> str:
    return DECODER.format(rotate=rotate, inputs=inputs)


def check_packed(text: str, mask: str) -> tuple[Module, PassRecord]:
    before, after, record = remove_padding(text)
    assert record.changed, record.misses
    valid = np.array(MASKS[mask], bool)
    given = before.graph.inputs[2:]
    ids = np.cumsum(valid, axis=1) - valid
    check_on_mask(before, after, valid, extra={value.name or "": ids for value in given})
    return after, record


@pytest.mark.parametrize("mask", ["left", "interleaved", "an empty row", "all rows empty"])
@pytest.mark.parametrize("spelling", ROTATIONS)
def test_rotary_positions_turn_packed_tokens(spelling: str, mask: str) -> None:
    after, _ = check_packed(decoder(*ROTATIONS[spelling]), mask)
    assert "VarlenAttention" in operators(after)
    assert operators(after).count("Unpack") == 1


def test_angles_shared_by_all_layers_are_packed_once() -> None:
    after, _ = check_packed(decoder(*ROTATIONS["angles written out for each row"]), "left")
    assert operators(after).count("Pack") == 3  # the states, cosine and sine


def test_declines_angles_of_another_sequence() -> None:
    turned = "q = RotaryEmbedding (q4, other, sine)\n" + "k = Expand (k4, repeated)\n"
    text = decoder(turned + "v = Expand (k4, repeated)", ", float[B,R,2] other")
    check_declines(RemovePadding(), text, "another size along a token axis")


def test_declines_to_reshape_heads_into_the_sequence() -> None:
    mixed = (
        "folded = Reshape (q4, fold)\n q = Reshape (folded, unfold)\n k = Expand (k4, repeated)\n"
    )
    sizes = "int64[3] fold = {0, -1, 4}, int64[4] unfold = {0, 2, -1, 4}, int64[2] leading"
    text = decoder(mixed + "v = Expand (k4, repeated)").replace("int64[2] leading", sizes)
    check_declines(RemovePadding(), text, "Reshape mixes features with batch or sequence")


def test_declines_a_new_size_along_the_sequence() -> None:
    turned = "q = Identity (q4)\n k = Expand (k4, repeated)\n v = Expand (k, beyond)"
    text = decoder(turned, ", int64[4] beyond")
    check_declines(RemovePadding(), text, "repeats along an axis that indexes tokens")


JOINT = """
    g (float[B,S,4] x, bool[B,S] mask) => (float[B,S,4] y)
    <float[4] gamma = {{1, 2, 3, 4}}, float[4,12] w = {{...}}, int64[4] split = {{0, 0, 3, 4}},
     int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}}, int64[2] axes = {{1, 2}},
     int64[2] leading = {{1, 1}}, int64[1] single = {{1}}, int64[1] second = {{2}},
     int64[1] last = {{2}}>
    {{
        n = LayerNormalization <axis = -1> (x, gamma)
        joint = MatMul (n, w)
        parts = Reshape (joint, split)
        {pick}
        keys = Unsqueeze (mask, axes)
        length = Shape <start = 1, end = 2> (mask)
        mask_shape = Concat <axis = 0> (leading, length, single)
        key_mask = Expand (keys, mask_shape)
        y = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (q, k, v, key_mask)
    }}
"""
PICKS = {
    "behind the tokens": "".join(
        f"{name} = Gather <axis = 2> (parts, {place})\n"
        for name, place in (("q", "zero"), ("k", "one"), ("v", "two"))
    ),
    "before the tokens": "front = Transpose <perm = [2, 0, 1, 3]> (parts)\n"
    + "".join(
        f"{name} = Gather <axis = 0> (front, {place})\n"
        for name, place in (("q", "zero"), ("k", "one"), ("v", "two"))
    ),
    "keeping the axis": "q = Gather <axis = 2> (parts, zero)\n k = Gather <axis = 2> (parts, one)\n"
    "v4 = Gather <axis = 2> (parts, second)\n v = Squeeze (v4, last)\n",
}


@pytest.mark.parametrize("pick", PICKS)
def test_parts_of_a_joint_projection_are_picked_packed(pick: str) -> None:
    after, _ = check_packed(JOINT.format(pick=PICKS[pick]), "interleaved")
    assert "VarlenAttention" in operators(after)
    assert operators(after).count("Pack") == 1
