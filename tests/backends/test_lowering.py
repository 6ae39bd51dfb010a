from __future__ import annotations

import itertools

import numpy as np
import pytest

from dechaff.backends import TARGETS, Session, lower, start_session
from dechaff.backends.onnxruntime.lowering import lowering_kinds
from dechaff.ir import (
    DOMAIN,
    DialectOp,
    Module,
    UsageError,
    dialect_ops,
    find_breaches,
    infer_shapes,
    parse,
)
from tests.ir.test_dialect_ops import HEADER, MASKS, ROUND_TRIP
from tests.model_runner import Array

REFERENCE_ONLY = {
    **dict.fromkeys(
        ("RowSimilarity", "PackedRowSimilarity", "SoftmaxEntropy", "SoftmaxGap"),
        "a few walks over the states or logits of one layer",
    ),
    **dict.fromkeys(
        ("TokenSummary", "PackedTokenSummary", "RowTokens"),
        "one gather or scatter for each exit",
    ),
    **dict.fromkeys(
        ("TopKMask", "TopKVarlenAttention"),
        "to know the best keys takes all scores: nothing is saved by another form",
    ),
    **dict.fromkeys(
        ("BlockwiseQuantize", "BlockwiseRound", "ShiftRight"),
        "a few walks over memory; no runtime here has a kernel for it",
    ),
    "BlockwiseAttention": "stands in the reference function of BlockwiseVarlenAttention only",
    "TokenLayout": "a few operations on [B, S] integers, once per model",
    "SkipLayerNormalization": "the runtime's own takes five times as long as its parts",
    "BiasSkipLayerNormalization": "the same; and its bias goes into the product before it",
    "SkipRMSNormalization": "the runtime's own is no faster than its parts",
    "Unpack": "one scatter per model; the reference function is what the runtime does best",
}
"""Operators that run as their reference function on purpose, with the reason."""


def domains(module: Module) -> set[str]:
    return {node.domain for node in module.nodes()}


@pytest.mark.parametrize("op", dialect_ops(), ids=lambda op: op.name)
def test_each_operator_is_lowered_or_declared_a_hole(op: DialectOp) -> None:
    assert bool(lowering_kinds(op.name)) != (op.name in REFERENCE_ONLY), (
        f"{op.name}: add a lowering, or the reason why the reference function is enough"
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", MASKS)
def test_packing_gives_the_same_numbers_and_leaves_no_dialect(
    target: str, rows: list[list[int]]
) -> None:
    module = parse(HEADER + ROUND_TRIP)
    infer_shapes(module)
    lowered = lower(module, target)
    assert DOMAIN not in domains(lowered)
    assert DOMAIN not in lowered.graph.opset_imports
    assert not list(find_breaches(lowered))
    mask = np.array(rows, bool)
    x = np.random.default_rng(0).standard_normal((*mask.shape, 3)).astype(np.float32)
    found = start_session(lowered).run({"x": x, "mask": mask})
    np.testing.assert_array_equal(found["packed"], x[mask])
    np.testing.assert_array_equal(found["y"], np.where(mask[..., None], x, 0))


def test_no_two_nodes_of_a_function_count_up_from_one_name() -> None:
    """The library's inliner tries a name and then all numbers behind it, for each such node."""
    lowered = lower(parse(HEADER + ROUND_TRIP))
    names = [node.name for node in lowered.nodes()]
    assert len(set(names)) == len(names)
    assert not [name for name in names if not name or name.startswith("node")]


def test_the_given_module_stays_as_it_is() -> None:
    module = parse(HEADER + ROUND_TRIP)
    infer_shapes(module)
    before = [node.op_type for node in module.graph]
    lower(module)
    assert [node.op_type for node in module.graph] == before


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    module = parse(HEADER + ROUND_TRIP)
    with pytest.raises(UsageError, match="known are cpu, openvino, portable"):
        lower(module, "gpu")


FUSED = {
    "SkipLayerNormalization": "n, s = dechaff.SkipLayerNormalization <epsilon = 1e-5> (x, z, w, b)",
    "BiasSkipLayerNormalization": (
        "n, s = dechaff.BiasSkipLayerNormalization <epsilon = 1e-5> (x, z, w, b, d)"
    ),
    "SkipRMSNormalization": "n, s = dechaff.SkipRMSNormalization <epsilon = 1e-5> (x, z, w)",
    "BiasGelu": 'n = dechaff.BiasGelu <approximate = "none"> (x, b)',
    "BiasGelu tanh": 'n = dechaff.BiasGelu <approximate = "tanh"> (x, b)',
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("leading", ["T", "B,S", "A,B,S"])
@pytest.mark.parametrize("reads_sum", [False, True])
@pytest.mark.parametrize("case", FUSED)
def test_fused_operators_agree_with_their_reference(
    case: str, reads_sum: bool, leading: str, target: str
) -> None:
    if reads_sum and case.startswith("BiasGelu"):
        return
    results = f"float[{leading},4] n" + (f", float[{leading},4] s" if reads_sum else "")
    module = parse(
        HEADER + f"g (float[{leading},4] x, float[{leading},4] z) => ({results})\n"
        "<float[4] w = {1,2,3,4}, float[4] b = {0.1,0.2,0.3,0.4}, float[4] d = {1,0,-1,0}>\n"
        f"{{ {FUSED[case]} }}"
    )
    infer_shapes(module)
    lowered = lower(module, target)
    uses_contrib = "com.microsoft" in domains(lowered)
    assert uses_contrib == (target == "cpu" and case == "BiasGelu")
    generator = np.random.default_rng(0)
    shape = (2, 3, 5)[: leading.count(",") + 1]
    inputs = {n: generator.standard_normal((*shape, 4)).astype(np.float32) for n in "xz"}
    expected = Session(module, graph_optimizations=False).run(inputs)
    found = Session(lowered).run(inputs)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


MERGED = """
    g (float[T,24] qkv, int64[N] starts, int64[K] key_index, int64[N] key_starts) => (float[T,8] y)
    <int64[3] widths = {8, 8, 8}, int64 zero = {0}, int64 step = {1}>
    {
        q, k, v = Split <axis = %s> (qkv, widths)
        count = Size (key_index)
        all_tokens = Range (zero, count, step)
        y = dechaff.VarlenAttention
            <q_num_heads = 4, kv_num_heads = 4, scale = 0.5, is_causal = 0> (q, k, v, %s)
    }
"""


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("keys", ["starts, all_tokens, starts", "starts, key_index, key_starts"])
def test_columns_of_one_matrix_are_cut_row_by_row(axis: int, keys: str) -> None:
    module = parse(HEADER + MERGED % (axis, keys))
    infer_shapes(module)
    lengths = [3, 0, 2]
    starts = np.array(list(itertools.accumulate(lengths, initial=0)), np.int64)
    qkv = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    index = np.arange(5, dtype=np.int64)
    inputs: dict[str, Array] = {"qkv": qkv, "starts": starts}
    inputs |= {"key_index": index, "key_starts": starts}
    lowered = lower(module)
    qkv_input = lowered.graph.inputs[0]
    assert all(node.op_type != "Split" or node.inputs[0] is not qkv_input for node in lowered.graph)
    expected = Session(module, graph_optimizations=False).run(inputs)["y"]
    np.testing.assert_allclose(Session(lowered).run(inputs)["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_models_of_a_newer_opset_take_the_dialect(target: str) -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 24, "dechaff" : 1]>
        g (float[B,S,4] x, bool[B,S] mask) => (float[T,4] y)
        { index, starts, position = dechaff.TokenLayout (mask)
          y = dechaff.Pack (x, index, mask) }"""
    )
    infer_shapes(model)
    lowered = lower(model, target)
    assert lowered.opset == 24
    assert DOMAIN not in domains(lowered)
