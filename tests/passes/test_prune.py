"""Pruning removes for good, and what it says: compared with models of zeroed weights."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dechaff.ir import Module, UsageError, num_parameters
from dechaff.passes import Numerics, parse_pass_list
from dechaff.passes.prune import Prune, PruneOptions
from dechaff.passes.removal import Removal
from tests.model_runner import random_inputs, run_module
from tests.passes.rewrite_checks import (
    SIZE_SETS,
    assert_close,
    check_declines,
    check_ignores,
    module_from,
    run_pass,
)

ATTENTION = """
attention (float[B,S,8] x, bool[B,1,S,S] mask) => (float[B,S,8] y)
    <float[8,16] wq = {...}, float[8,8] wk = {...}, float[8,8] wv = {...}, float[16,8] wo = {...},
     float[16] bq = {...}, float[8] bk = {...}, float[8] bo = {...}, int64[4] split = {0, 0, 4, 4},
     int64[3] join = {0, 0, 16}, float[4] scale = {1, 2, 3, 4}>
{
    xq = MatMul (x, wq)
    bqs = Add (xq, bq)
    heads = Reshape (bqs, split)
    normed = RMSNormalization <axis = -1> (heads, scale)
    q = Reshape (normed, join)
    xk = MatMul (x, wk)
    k = Add (xk, bk)
    v = MatMul (x, wv)
    context = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v, mask)
    out = MatMul (context, wo)
    biased = Add (out, bo)
    y = Add (x, biased)
}
"""
"""Grouped-query attention with normalized queries; four heads of queries, two of keys."""

GATED = """
gated (float[B,S,4] x) => (float[B,S,4] y)
    <float[4,6] gate = {...}, float[4,6] up = {...}, float[6,4] down = {...}, float[6] bias = {...}>
{
    gates = MatMul (x, gate)
    squashed = Sigmoid (gates)
    swish = Mul (gates, squashed)
    wide = MatMul (x, up)
    shifted = Add (wide, bias)
    inner = Mul (swish, shifted)
    narrow = MatMul (inner, down)
    y = Add (narrow, x)
}
"""


def prune(remove: str) -> Prune:
    return Prune(PruneOptions(remove=remove, zeros=False))


def zeroed(module: Module, weight: str, rows: list[int]) -> Module:
    """The module with these rows of a weight set to zero."""
    changed = module.clone()
    value = changed.graph.initializers[weight]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    array[rows] = 0
    value.const_value = ir.tensor(array, name=weight)
    return changed


def check_same(expected: Module, found: Module) -> None:
    for seed, sizes in enumerate(SIZE_SETS):
        inputs = random_inputs(expected, sizes, seed)
        for name, array in run_module(expected, inputs).items():
            result = run_module(found, inputs)[name]
            assert_close(Numerics.REASSOCIATES, result, array, f"{name} at {dict(sizes)}")


def test_a_group_of_heads_goes_with_the_queries_it_serves() -> None:
    module = module_from(ATTENTION)
    pruned, record = run_pass(prune("attention.0.heads.0"), module)
    assert record.changed
    check_same(zeroed(module, "wo", list(range(8))), pruned)
    assert num_parameters(pruned) < num_parameters(module) / 2 + 40
    attention = next(node for node in pruned.graph if node.op_type == "Attention")
    assert attention.attributes["q_num_heads"].as_int() == 2
    assert attention.attributes["kv_num_heads"].as_int() == 1


@pytest.mark.parametrize("inner", ["float[B,4,S,S]", "float[4,S,S]"])
def test_a_mask_that_differs_by_head_loses_the_same_heads(inner: str) -> None:
    module = module_from(ATTENTION.replace("bool[B,1,S,S]", inner))
    pruned, _ = run_pass(prune("attention.0.heads.1"), module)
    check_same(zeroed(module, "wo", list(range(8, 16))), pruned)


def test_features_go_from_gate_and_both_matrices() -> None:
    module = module_from(GATED)
    pruned, record = run_pass(prune("ffn.0.features.1:3-4"), module)
    check_same(zeroed(module, "down", [1, 3, 4]), pruned)
    assert num_parameters(pruned) == 3 * (4 + 4 + 4 + 1)
    assert len(record.rewrites) == 1


def test_a_feature_that_is_switched_off_already_goes_without_being_named() -> None:
    module = zeroed(module_from(GATED), "down", [0, 5])
    pruned, _ = run_pass(Prune(), module)
    check_same(module, pruned)
    assert num_parameters(pruned) == 4 * (4 + 4 + 4 + 1)


def test_one_feature_stays_where_all_are_switched_off() -> None:
    module = zeroed(module_from(GATED), "down", list(range(6)))
    pruned, _ = run_pass(Prune(), module)
    check_same(module, pruned)


@pytest.mark.parametrize(
    ("text", "block"), [(ATTENTION, "attention.0"), (GATED, "ffn.0")], ids=["attention", "ffn"]
)
def test_a_removed_block_leaves_what_it_was_added_to(text: str, block: str) -> None:
    module = module_from(text)
    pruned, _ = run_pass(prune(block), module)
    inputs = random_inputs(module, SIZE_SETS[0], 0)
    assert run_module(pruned, inputs)["y"].tobytes() == inputs["x"].tobytes()
    assert num_parameters(pruned) == 0


NORMALIZED = GATED.replace("float[6] bias", "float[4] scale = {...}, float[6] bias").replace(
    "y = Add (narrow, x)", "sum = Add (narrow, x)\n    y = LayerNormalization (sum, scale)"
)


def test_a_block_may_take_the_normalization_behind_it_along() -> None:
    module = module_from(NORMALIZED)
    kept, _ = run_pass(prune("ffn.0"), module)
    assert [node.op_type for node in kept.graph] == ["LayerNormalization"]
    whole, _ = run_pass(prune("ffn.0.whole"), module)
    assert [node.op_type for node in whole.graph] == ["Identity"]


NEIGHBOURS = """
neighbours (float[B,S,4] x) => (float[B,S,4] y)
    <float[4,6] up0 = {...}, float[6,4] down0 = {...}, float[4] scale = {...},
     float[4,6] up1 = {...}, float[6,4] down1 = {...}>
{
    wide0 = MatMul (x, up0)
    active0 = Relu (wide0)
    narrow0 = MatMul (active0, down0)
    sum0 = Add (narrow0, x)
    h = LayerNormalization (sum0, scale)
    wide1 = MatMul (h, up1)
    active1 = Relu (wide1)
    narrow1 = MatMul (active1, down1)
    sum1 = Add (narrow1, h)
    y = LayerNormalization (sum1, scale)
}
"""


@pytest.mark.parametrize("ending", ["", ".whole"])
def test_neighbours_go_together(ending: str) -> None:
    """What the second leaves is the sum that the first has joined."""
    text = NEIGHBOURS
    if not ending:
        text = text.replace("(h, up1)", "(sum0, up1)").replace("(narrow1, h)", "(narrow1, sum0)")
    module = module_from(text)
    pruned, _ = run_pass(prune(f"ffn.0{ending}+ffn.1{ending}"), module)
    assert not [node for node in pruned.graph if node.op_type == "MatMul"]
    assert num_parameters(pruned) == (0 if ending else 4)


def test_nothing_named_and_nothing_switched_off_changes_nothing() -> None:
    check_ignores(Prune(), ATTENTION)
    check_ignores(Prune(), GATED)


def test_heads_stay_where_queries_are_normalized_over_all_of_them() -> None:
    text = (
        ATTENTION.replace("Reshape (bqs, split)", "Identity (bqs)")
        .replace("float[4] scale = {1, 2, 3, 4}", "float[16] scale = {...}")
        .replace("Reshape (normed, join)", "Mul (normed, normed)")
    )
    check_declines(prune("attention.0.heads.0"), text, "do not come from a product")
    text = (
        ATTENTION.replace("heads = Reshape (bqs, split)\n", "")
        .replace("(heads, scale)", "(bqs, scale)")
        .replace("float[4] scale = {1, 2, 3, 4}", "float[16] scale = {...}")
    )
    check_declines(prune("attention.0.heads.0"), text, "normalized over all heads")


def test_heads_stay_where_the_mask_may_differ_by_head() -> None:
    text = ATTENTION.replace("bool[B,1,S,S]", "bool[B,H,S,S]")
    check_declines(prune("attention.0.heads.0"), text, "whether its mask differs by head")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("y = Add (narrow, x)", "y = MatMul (narrow, gate)", id="no addition"),
        pytest.param("(float[B,S,4] y)", "(float[B,S,4] y, float[B,S,6] inner)", id="inner read"),
        pytest.param("wide = MatMul (x, up)", "wide = Softmax (gates)", id="features mixed"),
    ],
)
def test_what_is_no_feed_forward_block_is_not_pruned(old: str, new: str) -> None:
    module = module_from(GATED.replace(old, new))
    with pytest.raises(UsageError, match=r"there is no block ffn\.0; the model has none"):
        run_pass(prune("ffn.0"), module)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("ffn", "cannot read 'ffn'"),
        ("ffn.0.heads.1", "cannot read"),
        ("ffn.0.features", "cannot read"),
        ("attention.1.heads.3-1", "cannot read"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(remove: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_pass_list(f"prune{{remove={remove}}}")


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="parts 0 to 1, got 2"):
        run_pass(prune("attention.0.heads.2"), module_from(ATTENTION))


features = st.frozensets(st.integers(0, 40), min_size=1)


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(0, 11), features), st.dictionaries(st.integers(0, 9), st.booleans())
)
def test_a_removal_survives_its_text(
    parts: dict[int, frozenset[int]], blocks: dict[int, bool]
) -> None:
    removal = Removal(
        {f"ffn.{number}": whole for number, whole in blocks.items()},
        {f"ffn.{number}": kept for number, kept in parts.items() if number not in blocks},
    )
    assert Removal.parse(str(removal)) == removal
