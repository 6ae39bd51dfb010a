from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dechaff.ir import Module
from dechaff.passes import Numerics, parse_pass_list, run_passes
from dechaff.passes.skip_unread_rows import SkipUnreadRows
from tests.model_runner import run_module
from tests.passes.rewrite_checks import (
    assert_close,
    check_declines,
    check_ignores,
    check_numbers,
    module_from,
    run_pass,
)

LAYER = """
    g (float[B,S,4] x{inputs}) => (float[{shape}] y{outputs})
    <float[4] g1 = {{1, 2, 3, 4}}, float[4] g2 = {{4, 3, 2, 1}}, float[4] bias = {{0.5, 1, -1, 2}},
     float[4,4] wq = {{...}}, float[4,4] wk = {{...}}, float[4,4] wo = {{...}},
     float[4,6] up = {{...}}, float[6,4] down = {{...}}, float[1,1,4] row = {{...}},
     int64 first = {{0}}, int64 final = {{-1}}, int64[1] first_kept = {{0}},
     int64[2] two = {{0, 1}},
     int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] minus_one = {{-1}},
     int64[1] far = {{9223372036854775807}}, int64[1] third = {{2}}>
    {{
        h0 = LayerNormalization (x, g1)
        q = MatMul (h0, wq)
        k = MatMul (h0, wk)
        c = Attention <q_num_heads = 2, kv_num_heads = 2{attributes}> ({attention})
        o = MatMul (c, wo)
        biased = Add (o, bias)
        r = Add (biased, h0)
        h1 = LayerNormalization (r, g2)
        u = MatMul (h1, up)
        activated = Gelu (u)
        d = MatMul (activated, down)
        s = Add (d, h1)
        h2 = LayerNormalization (s, g1)
        {selection}
        {after}
    }}
"""
FIRST = "picked = Gather <axis = 1> (h2, first)"
MOVED = 11
"""Operations of the layer that make rows one by one, the attention among them."""


def layer(
    selection: str = FIRST,
    after: str = "y = Tanh (picked)",
    shape: str = "B,4",
    attention: str = "q, k, h0",
    attributes: str = "",
    inputs: str = "",
    outputs: str = "",
) -> str:
    return LAYER.format(
        selection=selection,
        after=after,
        shape=shape,
        attention=attention,
        attributes=attributes,
        inputs=inputs,
        outputs=outputs,
    )


def moved(module: Module) -> int:
    """How many operations of the layer work on one position."""
    names = ("MatMul", "Attention", "VarlenAttention", "Add", "LayerNormalization", "Gelu")
    nodes = [node for node in module.graph if node.op_type in names]
    sizes = [list(node.outputs[0].shape or ()) for node in nodes]
    return sum(size[-2] == 1 for size in sizes)


def after_pass(text: str, sizes: tuple[dict[str, int], ...] | None = None) -> Module:
    before = module_from(text)
    after, record = run_pass(SkipUnreadRows(), before)
    assert record.changed
    check_numbers(SkipUnreadRows.numerics, before, after, sizes or SIZES)
    return after


SIZES = ({"B": 2, "S": 5}, {"B": 1, "S": 1}, {"B": 3, "S": 2}, {"B": 7, "S": 13})
SELECTIONS = {
    "gather a scalar": (FIRST, "B,4"),
    "gather a vector": ("picked = Gather <axis = 1> (h2, first_kept)", "B,1,4"),
    "gather the last": ("picked = Gather <axis = 1> (h2, final)", "B,4"),
    "slice the first": ("picked = Slice (h2, zero, one, one)", "B,1,4"),
    "slice the last": ("picked = Slice (h2, minus_one, far, one)", "B,1,4"),
}


@pytest.mark.parametrize(("selection", "shape"), SELECTIONS.values(), ids=SELECTIONS)
def test_the_layer_works_on_the_selected_position(selection: str, shape: str) -> None:
    after = after_pass(layer(selection, shape=shape))
    attention = next(node for node in after.graph if node.op_type == "Attention")
    sizes = [str(value.shape) for value in attention.inputs if value is not None]
    assert sizes == ["[B,1,4]", "[B,S,4]", "[B,S,4]"]
    assert sum(node.op_type == "Gather" for node in after.graph) == 1


@pytest.mark.parametrize(
    ("mask", "operand"),
    [
        ("bool[B,1,S,S] m", "m"),
        ("float[1,1,S,S] m", "m"),
        ("float[S,S] m", "m"),
    ],
)
def test_the_mask_keeps_the_row_of_the_query(mask: str, operand: str) -> None:
    text = layer(attention=f"q, k, h0, {operand}", inputs=f", {mask}")
    before = module_from(text)
    after, record = run_pass(SkipUnreadRows(), before)
    assert record.changed
    generator = np.random.default_rng(0)
    for batch, length in ((3, 5), (1, 1), (2, 4)):
        x = generator.standard_normal((batch, length, 4)).astype(np.float32)
        dims = before.graph.inputs[1].shape
        assert dims is not None
        shape = [{"B": batch, "S": length}.get(str(dim), 1) for dim in dims]
        kept = generator.standard_normal(shape)
        given = {"x": x, "m": kept > -0.5 if "bool" in mask else kept.astype(np.float32)}
        if "bool" in mask:
            given["m"][..., 0] = True
        expected, found = (run_module(module, given)["y"] for module in (before, after))
        assert_close(SkipUnreadRows.numerics, found, expected, mask)


def test_a_mask_for_all_queries_stays() -> None:
    """The runtime does not take it for many queries; there is nothing to compare with."""
    before = module_from(layer(attention="q, k, h0, m", inputs=", bool[B,1,1,S] m"))
    after, record = run_pass(SkipUnreadRows(), before)
    assert record.changed
    attention = next(node for node in after.graph if node.op_type == "Attention")
    assert attention.inputs[3] is after.graph.inputs[1]


def test_the_last_query_of_a_causal_attention_sees_all() -> None:
    text = layer(SELECTIONS["gather the last"][0], attributes=", is_causal = 1")
    attention = next(node for node in after_pass(text).graph if node.op_type == "Attention")
    assert "is_causal" not in attention.attributes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attributes": ", is_causal = 1"}, "it is causal, and the query at 0"),
        ({"attention": "q, k, h0, m", "inputs": ", bool[B,1,M,S] m"}, "a row for each query"),
        ({"attention": "q, k, h0, m", "inputs": ", bool[S] m"}, "shape of its mask"),
    ],
)
def test_what_keeps_attention_whole(changes: dict[str, str], reason: str) -> None:
    """The rest of the layer moves all the same."""
    before = module_from(layer(**changes))
    after, record = run_pass(SkipUnreadRows(), before)
    assert reason in "\n".join(miss.reason for miss in record.misses)
    attention = next(node for node in after.graph if node.op_type == "Attention")
    assert str(attention.outputs[0].shape) == "[B,S,4]"
    assert moved(after) == MOVED - 2


def test_a_cache_keeps_attention_whole() -> None:
    text = layer(
        attention="q, k, h0, , past_k, past_v",
        inputs=", float[B,2,P,2] past_k, float[B,2,P,2] past_v",
    )
    _, record = run_pass(SkipUnreadRows(), module_from(text))
    assert "it has a cache" in "\n".join(miss.reason for miss in record.misses)


def test_what_is_read_as_a_whole_stays() -> None:
    text = layer(outputs=", float[B,S,4] h2")
    check_ignores(SkipUnreadRows(), text)


def test_a_second_reader_in_the_middle_stops_it_there() -> None:
    after = after_pass(layer(outputs=", float[B,S,4] h1"))
    assert moved(after) == MOVED - 6


def test_a_reader_of_the_whole_stops_it() -> None:
    text = layer(
        after="t = Tanh (picked)\n m = ReduceMax <keepdims = 0> (h2, one)\n y = Add (t, m)"
    )
    check_declines(SkipUnreadRows(), text, "h2 is read at other positions than 0 too")


@pytest.mark.parametrize(
    ("selection", "shape"),
    [
        ("picked = Gather <axis = 1> (h2, two)", "B,2,4"),
        ("picked = Gather <axis = 2> (h2, first)", "B,S"),
        ("picked = Gather <axis = 0> (h2, first)", "S,4"),
        ("picked = Slice (h2, zero, third, one)", "B,2,4"),
        ("picked = Slice (h2, minus_one, zero, one)", "B,0,4"),
        ("picked = Relu (h2)", "B,S,4"),
    ],
)
def test_other_selections_are_left_alone(selection: str, shape: str) -> None:
    check_ignores(SkipUnreadRows(), layer(selection, shape=shape))


def test_what_mixes_positions_is_a_limit() -> None:
    text = layer(
        "m = CumSum (h2, first_kept)\n a = Add (m, h2)\n picked = Gather <axis=1>(a, first)"
    )
    after = after_pass(text)
    assert moved(after) == 1


def test_operands_of_other_ranks_are_gathered_on_their_own_axis() -> None:
    text = layer(
        "p = Add (h2, positions)\n n = Mul (p, row)\n picked = Gather <axis = 1> (n, final)",
        inputs=", float[S,4] positions",
    )
    assert moved(after_pass(text)) == MOVED + 1


PACKED = """
    g (float[B,S,4] x, bool[B,S] mask) => (float[B,4] y)
    <float[4] g1 = {{1, 2, 3, 4}}, float[4,4] wq = {{...}}, float[4,4] wo = {{...}},
     int64[2] axes = {{1, 2}}, int64 position = {{{position}}}, int64[2] leading = {{1, 1}},
     int64[1] one = {{1}}>
    {{
        keys = Unsqueeze (mask, axes)
        length = Shape <start = 1, end = 2> (mask)
        mask_shape = Concat <axis = 0> (leading, length, one)
        key_mask = Expand (keys, mask_shape)
        h0 = LayerNormalization (x, g1)
        c0 = Attention <q_num_heads = 2, kv_num_heads = 2> (h0, h0, h0, key_mask)
        r0 = Add (c0, h0)
        h = LayerNormalization (r0, g1)
        q = MatMul (h, wq)
        c = Attention <q_num_heads = 2, kv_num_heads = 2> (q, h, h, key_mask)
        o = MatMul (c, wo)
        r = Add (o, h)
        n = LayerNormalization (r, g1)
        y = Gather <axis = 1> (n, position)
    }}
"""


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 4),
    length=st.integers(1, 9),
    position=st.sampled_from([0, -1]),
    seed=st.integers(0, 99),
)
def test_packed_rows_of_any_length(batch: int, length: int, position: int, seed: int) -> None:
    """Padding anywhere, rows without a token among them: what those give means nothing."""
    before = module_from(PACKED.format(position=position))
    packed, _ = run_passes(before.clone(), parse_pass_list("remove-padding"))
    after, records = run_passes(packed.clone(), [SkipUnreadRows()])
    assert records[0].changed
    attentions = [node for node in after.graph if node.op_type == "VarlenAttention"]
    assert [str(node.outputs[0].shape) for node in attentions] == ["[T_2,4]", "[B,4]"]
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((batch, length, 4)).astype(np.float32)
    mask = generator.random((batch, length)) < generator.random((batch, 1))
    given = {"x": x, "mask": mask}
    expected, found = (run_module(module, given)["y"] for module in (packed, after))
    assert_close(Numerics.REASSOCIATES, found, expected, "packed")
    some = mask.any(axis=1)
    padded = run_module(before, given)["y"]
    assert_close(Numerics.REASSOCIATES, found[some], padded[some], "padded")


def test_a_row_does_not_depend_on_its_batch_mates() -> None:
    packed, _ = run_passes(
        module_from(PACKED.format(position=0)), parse_pass_list("remove-padding,skip-unread-rows")
    )
    generator = np.random.default_rng(0)
    x = generator.standard_normal((4, 6, 4)).astype(np.float32)
    mask = np.arange(6) < np.array([[6], [1], [3], [2]])
    together = run_module(packed, {"x": x, "mask": mask})["y"]
    for row in range(4):
        alone = run_module(packed, {"x": x[row : row + 1], "mask": mask[row : row + 1]})["y"]
        assert_close(Numerics.REASSOCIATES, together[row : row + 1], alone, f"row {row}")


def test_a_second_position_keeps_the_layer_whole() -> None:
    """Two selections of one value read more than either."""
    text = layer(
        "picked = Gather <axis = 1> (h2, first)\n other = Gather <axis = 1> (h2, final)",
        after="y = Add (picked, other)",
    )
    check_declines(SkipUnreadRows(), text, "read at other positions")


def test_it_runs_last_wherever_it_is_named() -> None:
    names = [step.name for step in parse_pass_list("skip-unread-rows,canonicalize,fuse-attention")]
    assert names == ["canonicalize", "fuse-attention", "skip-unread-rows"]
    assert parse_pass_list("default,early-exit")[-1].name == "skip-unread-rows"
