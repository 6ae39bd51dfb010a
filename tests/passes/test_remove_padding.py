from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dechaff.ir import Module
from dechaff.passes import PassRecord
from dechaff.passes.remove_padding import RemovePadding
from tests.model_runner import Array, run_module
from tests.passes.rewrite_checks import assert_close, check_declines, module_from, run_pass

LAYER = """
    g (float[B,S,4] x, {mask_type}[B,S] mask{inputs}) => ({outputs})
    <float[4] gamma = {{1, 2, 3, 4}}, float[4] beta = {{4, 3, 2, 1}},
     float[4,4] w = {{1,2,3,4,5,6,7,8,8,7,6,5,4,3,2,1}}, float tenth = {{0.1}},
     int64[2] axes = {{1, 2}}, int64[1] last = {{2}}, int64[1] middle = {{1}},
     int64[2] leading = {{1, 1}}, int64[1] one = {{1}}, int64 first = {{0}}, int64 final = {{-1}},
     int64[2] whole_rows = {{0, -1}}, int64[4] split = {{0, 0, 2, 2}}, int64[3] join = {{0, 0, 4}},
     int64[2] flat = {{-1, 4}}, int64[2] ends = {{0, 1}}, int64 nothing = {{0}}>
    {{
        n = LayerNormalization <axis = -1> (x, gamma, beta)
        {before}
        small = Mul ({attended}, tenth)
        h = MatMul (small, w)
        bool_mask = Cast <to = 9> (mask)
        keys = Unsqueeze (bool_mask, axes)
        length = Shape <start = 1, end = 2> (mask)
        mask_shape = Concat <axis = 0> (leading, length, one)
        key_mask = Expand (keys, mask_shape)
        c = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> ({attention})
        r = Add (c, n)
        {after}
    }}
"""
STATES = "float[B,S,4] y"


def layer(
    after: str = "y = Relu (r)",
    outputs: str = STATES,
    before: str = "",
    attended: str = "n",
    attention: str = "h, h, h, key_mask",
    mask_type: str = "bool",
    inputs: str = "",
) -> str:
    return LAYER.format(
        after=after,
        outputs=outputs,
        before=before,
        attended=attended,
        attention=attention,
        mask_type=mask_type,
        inputs=inputs,
    )


def remove_padding(text: str) -> tuple[Module, Module, PassRecord]:
    before = module_from(text)
    after, record = run_pass(RemovePadding(), before)
    return before, after, record


def operators(module: Module) -> list[str]:
    return [node.op_type for node in module.graph]


MASKS = {
    "right": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]],
    "left": [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]],
    "interleaved": [[1, 0, 1, 0, 1], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0]],
    "an empty row": [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
    "all rows empty": [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    "no padding": [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    "one row": [[1, 1, 0]],
    "one token": [[1]],
    "one padded token": [[0]],
}
NUMPY_TYPES = {"bool": bool, "int64": np.int64, "int32": np.int32, "float": np.float32}


def random_states(mask: Array, seed: int = 0) -> Array:
    shape = (*mask.shape, 4)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check_on_mask(
    before: Module,
    after: Module,
    mask: Array,
    seed: int = 0,
    extra: Mapping[str, Array] | None = None,
) -> None:
    """Valid positions equal, padded positions zero, all else equal."""
    inputs = {"x": random_states(mask, seed), "mask": mask}
    for value in before.graph.inputs[2:]:
        inputs[value.name or ""] = random_states(mask, seed + 1)
    inputs.update(extra or {})
    expected, found = run_module(before, inputs), run_module(after, inputs)
    reduced = {positions.output for positions in after.valid_positions if not positions.per_row}
    per_row = {positions.output for positions in after.valid_positions if positions.per_row}
    for name, array in expected.items():
        if name in per_row:
            rows = mask.any(axis=1)
            assert np.isfinite(found[name]).all()
            array, found[name] = array[rows], found[name][rows]
        if name in reduced:
            assert not found[name][mask == 0].any()
            array[mask == 0] = 0
        assert_close(RemovePadding.numerics, found[name], array, name)


@pytest.mark.parametrize("mask_type", NUMPY_TYPES)
@pytest.mark.parametrize("mask", MASKS)
def test_valid_positions_keep_their_numbers_and_padding_is_zero(mask: str, mask_type: str) -> None:
    before, after, record = remove_padding(layer(mask_type=mask_type))
    assert record.changed
    check_on_mask(before, after, np.array(MASKS[mask]).astype(NUMPY_TYPES[mask_type]))


def test_packs_once_and_unpacks_once() -> None:
    second = layer(
        after="""
        n2 = LayerNormalization <axis = -1> (r, gamma, beta)
        h2 = MatMul (n2, w)
        c2 = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h2, h2, h2, key_mask)
        y = Add (c2, r)
    """
    )
    before, after, _ = remove_padding(second)
    assert operators(after).count("Pack") == 1
    assert operators(after).count("Unpack") == 1
    assert operators(after).count("VarlenAttention") == 2
    assert operators(after).count("TokenLayout") == 1
    assert "Attention" not in operators(after)
    check_on_mask(before, after, np.array(MASKS["interleaved"], bool))


def test_output_contract_is_recorded() -> None:
    _, after, _ = remove_padding(layer())
    assert [(p.output, p.mask) for p in after.valid_positions] == [("y", "mask")]


TOKEN_WISE = {
    "gelu": "y = Gelu (r)",
    "softmax over features": "y = Softmax <axis = -1> (r)",
    "softmax over the last of three axes": "y = Softmax <axis = 2> (r)",
    "a reduction over features": "s = ReduceMean (r, last)\n y = Sub (r, s)",
    "heads split and joined": "p = Reshape (r, split)\n q = Relu (p)\n y = Reshape (q, join)",
    "heads split, moved, joined": "p = Reshape (r, split)\n"
    "t = Transpose <perm = [0, 2, 1, 3]> (p)\n u = Tanh (t)\n"
    "v = Transpose <perm = [0, 2, 1, 3]> (u)\n y = Reshape (v, join)",
    "features transposed": "p = Reshape (r, split)\n t = Transpose <perm = [0, 1, 3, 2]> (p)\n"
    "y = Reshape (t, join)",
    "tokens merged into rows": "f = Reshape (r, flat)\n g1 = Gemm (f, w, beta)\n"
    "shape = Shape (x)\n y = Reshape (g1, shape)",
    "features sliced and joined": "zero1 = Constant <value = int64[1] {0}> ()\n"
    "two = Constant <value = int64[1] {2}> ()\n four = Constant <value = int64[1] {4}> ()\n"
    "a = Slice (r, zero1, two, last)\n b = Slice (r, two, four, last)\n"
    "y = Concat <axis = -1> (b, a)",
    "features split": "a, b = Split <axis = -1, num_outputs = 2> (r)\ny = Concat <axis = 2> (b, a)",
    "a number per position added": "ps = ReduceMean (other, last)\n y = Add (r, ps)",
    "a vector per row added": "ps = ReduceMean (other, middle)\n y = Add (r, ps)",
    "a vector per token added": "y = Add (r, other)",
    "a constant without token axes": "y = Mul (r, gamma)",
}


@pytest.mark.parametrize("case", TOKEN_WISE)
def test_token_wise_operations_run_packed(case: str) -> None:
    text = layer(after=TOKEN_WISE[case], inputs=", float[B,S,4] other")
    before, after, record = remove_padding(text)
    assert record.changed, record.misses
    assert operators(after).count("Unpack") == 1
    for mask in ("right", "interleaved", "an empty row", "one token"):
        check_on_mask(before, after, np.array(MASKS[mask], bool))


READERS = {
    "the first position": ("y = Gather <axis = 1> (r, first)", "float[B,4] y"),
    "the last position": ("y = Gather <axis = 1> (r, final)", "float[B,4] y"),
    "a slice of the first position": (
        "zero1 = Constant <value = int64[1] {0}> ()\n y = Slice (r, zero1, one, middle)",
        "float[B,1,4] y",
    ),
    "two positions": ("y = Gather <axis = 1> (r, ends)", "float[B,2,4] y"),
    "the first position beside all": (
        "y = Relu (r)\n z = Gather <axis = 1> (y, first)",
        "float[B,S,4] y, float[B,4] z",
    ),
    "a mean over valid positions": (
        "m = Cast <to = 1> (mask)\n m3 = Unsqueeze (m, last)\n p = Mul (r, m3)\n"
        "y = ReduceSum <keepdims = 0> (p, middle)",
        "float[B,4] y",
    ),
    "padding cleared by selection": (
        "k = Unsqueeze (bool_mask, last)\n zf = Constant <value = float {0}> ()\n"
        "p = Where (k, r, zf)\n y = ReduceMax <keepdims = 0> (p, middle)",
        "float[B,4] y",
    ),
}


@pytest.mark.parametrize("case", READERS)
def test_reads_across_positions_that_padding_cannot_reach(case: str) -> None:
    after_text, outputs = READERS[case]
    before, after, record = remove_padding(layer(after=after_text, outputs=outputs))
    assert record.changed, record.misses
    for rows in MASKS.values():
        mask = np.array(rows, bool)
        if case == "two positions" and mask.shape[1] < 2:
            continue
        if case == "padding cleared by selection" and not mask.any():
            continue
        check_on_mask(before, after, mask)


def test_a_picked_padded_position_is_computed_as_before() -> None:
    text = layer(after="y = Gather <axis = 1> (r, first)", outputs="float[B,4] y")
    before, after, _ = remove_padding(text)
    check_on_mask(before, after, np.array(MASKS["left"], bool))


DECLINED = {
    "a mean over all positions": (
        layer("y = ReduceMean <keepdims = 0> (r, middle)", "float[B,4] y"),
        "works along axis 1, which indexes tokens",
    ),
    "a convolution along the sequence": (
        layer(
            "t = Transpose <perm = [0, 2, 1]> (r)\n"
            "k = Constant <value = float[4,1,3] {1,1,1,1,1,1,1,1,1,1,1,1}> ()\n"
            "v = Conv <group = 4, pads = [1, 1]> (t, k)\n"
            "y = Transpose <perm = [0, 2, 1]> (v)"
        ),
        "it is not known to work on each token alone",
    ),
    "a softmax over positions": (
        layer("y = Softmax <axis = 1> (r)"),
        "works along axis 1, which indexes tokens",
    ),
    "tokens mixed by a reshape": (
        layer("p = Reshape (r, whole_rows)\n y = Relu (p)", "float[B,?] y"),
        "Reshape moves or mixes batch and sequence",
    ),
    "an output of merged rows": (
        layer("y = Reshape (r, flat)", "float[?,4] y"),
        "is not [batch, sequence, ..]",
    ),
    "an output with its axes elsewhere": (
        layer("y = Transpose <perm = [1, 0, 2]> (r)", "float[S,B,4] y"),
        "is not [batch, sequence, ..]",
    ),
    "attention without a mask": (layer(attention="h, h, h"), "no mask tells padding from tokens"),
    "a second attention without a mask": (
        layer(
            "y = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (r, r, r)",
        ),
        "not shown to hide padded keys",
    ),
    "a mask that is no padding mask": (
        layer(attention="h, h, h, mask4", inputs=", bool[B,1,S,S] mask4"),
        "no mask tells padding from tokens",
    ),
    "a position picked by data": (
        layer("i = ArgMax <axis = 1> (x)\n y = GatherElements <axis = 1> (r, i)", "float[B,1,4] y"),
        "not known to work on each token alone",
    ),
}


@pytest.mark.parametrize("case", DECLINED)
def test_each_condition_alone_stops_it_and_names_the_op(case: str) -> None:
    text, reason = DECLINED[case]
    check_declines(RemovePadding(), text, reason)


def test_what_is_not_token_wise_before_the_region_is_left_alone() -> None:
    before, after, record = remove_padding(
        layer(
            before="pooled = ReduceMean <keepdims = 1> (x, middle)\n centred = Sub (x, pooled)\n"
            "n1 = LayerNormalization <axis = -1> (centred, gamma, beta)",
            attended="n1",
        )
    )
    assert record.changed
    check_on_mask(before, after, np.array(MASKS["right"], bool))


MASKED_BY_POSITION = """
    s0 = Squeeze (length)
    step = Constant <value = int64 {1}> ()
    positions = Range (first, s0, step)
    column = Unsqueeze (positions, middle)
    visible = GreaterOrEqual (column, positions)
    nearest = Sub (column, step)
    near = GreaterOrEqual (positions, nearest)
    window = And (visible, near)
    both = And (%s, key_mask)
    c = Attention"""


def masked_by_position(visible: str, **options: str) -> str:
    text = layer(attention="h, h, h, both", **options)
    return text.replace("c = Attention", MASKED_BY_POSITION % visible)


def test_causal_attention_runs_packed() -> None:
    before, after, record = remove_padding(masked_by_position("visible"))
    assert record.changed, record.misses
    node = next(node for node in after.graph if node.op_type == "VarlenAttention")
    assert node.attributes["is_causal"].as_int() == 1
    for mask in ("right", "left", "interleaved", "an empty row"):
        check_on_mask(before, after, np.array(MASKS[mask], bool))


@pytest.mark.parametrize(
    ("visible", "options"),
    [
        ("window", {}),
        ("visible", {"after": "y = Gather <axis = 1> (r, final)", "outputs": "float[B,4] y"}),
    ],
    ids=["a window", "causal, and a position is picked"],
)
@pytest.mark.parametrize("mask", MASKS)
def test_other_attention_keeps_its_mask_and_runs_packed(
    visible: str, options: dict[str, str], mask: str
) -> None:
    before, after, _ = remove_padding(masked_by_position(visible, **options))
    assert "MaskedVarlenAttention" in operators(after)
    assert "Attention" not in operators(after)
    check_on_mask(before, after, np.array(MASKS[mask], bool))


@pytest.mark.parametrize(
    ("attribute", "visible"), [("softcap = 2.0", "window"), ("is_causal = 1", "window")]
)
def test_attention_without_a_packed_form_runs_padded(attribute: str, visible: str) -> None:
    text = masked_by_position(visible).replace("scale = 0.5", f"scale = 0.5, {attribute}")
    before, after, _ = remove_padding(text)
    assert "Attention" in operators(after)
    check_on_mask(before, after, np.array(MASKS["left"], bool))


def test_a_row_does_not_depend_on_its_batch_mates() -> None:
    _, after, _ = remove_padding(layer())
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, 5, 4)).astype(np.float32)
    mask = np.array(MASKS["right"], bool)
    together = run_module(after, {"x": x, "mask": mask})["y"]
    for row in range(3):
        alone = run_module(after, {"x": x[row : row + 1], "mask": mask[row : row + 1]})["y"]
        assert_close(RemovePadding.numerics, alone[0], together[row], f"row {row}")


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 5), length=st.integers(1, 13), seed=st.integers(0, 2**31))
def test_numbers_hold_for_any_mask(batch: int, length: int, seed: int) -> None:
    before, after, _ = remove_padding(layer())
    mask = np.random.default_rng(seed).random((batch, length)) < 0.6
    check_on_mask(before, after, mask, seed)


def test_a_model_without_attention_is_left_alone_and_says_so() -> None:
    text = "g (float[B,S,4] x) => (float[B,S,4] y) { y = Relu (x) }"
    _, _, record = remove_padding(text)
    assert not record.changed
    assert "no softmax attention" in record.notes[0]


def test_a_picked_position_that_may_see_only_padding_keeps_it() -> None:
    options = {"after": "y = Gather <axis = 1> (r, final)", "outputs": "float[B,4] y"}
    text = masked_by_position("visible", **options).replace(
        "c = Attention",
        """no_bias = Constant <value = float {0.0}> ()
        low_bias = Constant <value = float {-1e30}> ()
        bias = Where (both, no_bias, low_bias)
        c = Attention""",
    )
    _, _, record = remove_padding(text.replace("(h, h, h, both)", "(h, h, h, bias)"))
    assert not record.changed
    assert "may see no token" in record.misses[0].reason
