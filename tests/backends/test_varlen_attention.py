from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from dechaff.backends import TARGETS, Session, lower, start_session
from dechaff.backends.onnxruntime import varlen_attention
from dechaff.backends.onnxruntime.varlen_attention import (
    ATTENTION_KERNELS,
    AttentionKernel,
    few_tokens,
)
from dechaff.ir import DOMAIN, Module, infer_shapes, parse
from tests.ir.test_dialect_ops import ATTENTION, HEADER

ALL_KEYS = """
    g ({tokens}, int64[N] starts) => (float[T,8] y)
    <int64 zero = {{0}}, int64 one = {{1}}, int64[3] widths = {{8, 4, 4}}>
    {{
        {operands}
        sizes = Shape (q)
        count = Gather <axis = 0> (sizes, zero)
        keys = Range (zero, count, one)
        y = dechaff.VarlenAttention
            <q_num_heads = 4, kv_num_heads = 2, scale = 0.4, is_causal = {causal}>
            (q, k, v, starts, keys, starts)
    }}
"""
SEPARATE = ("float[T,8] q, float[T,4] k, float[T,4] v", "")
MERGED = ("float[T,16] qkv", "q, k, v = Split <axis = 1> (qkv, widths)")
WIDTHS = {"q": 8, "k": 4, "v": 4, "qkv": 16}

each_kernel = pytest.mark.parametrize("kernel", ATTENTION_KERNELS)


@pytest.fixture(params=["few", "many"])
def few_or_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same tokens as few, which are attended to at once, and as many, which are not."""
    if request.param == "many":
        monkeypatch.setattr(varlen_attention, "_FEW_PRODUCTS", 0)
    return str(request.param)


def module_from(text: str) -> Module:
    module = parse(HEADER + text)
    infer_shapes(module)
    return module


def tokens_for(module: Module, count: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        value.name: generator.standard_normal((count, WIDTHS[value.name])).astype(np.float32)
        for value in module.graph.inputs
        if value.name in WIDTHS
    }


def check(module: Module, lowered: Module, given: dict[str, Any]) -> None:
    assert DOMAIN not in {node.domain for node in lowered.nodes()}
    expected = Session(module, graph_optimizations=False).run(given)["y"]
    found = start_session(lowered).run(given)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "lengths", [[3, 1, 0, 5], [1, 2], [0, 0], [4], [2, 2, 2], [0, 2, 0, 2], [1, 1, 9]], ids=str
)
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("operands", [SEPARATE, MERGED], ids=["separate", "merged"])
@pytest.mark.usefixtures("few_or_many")
@each_kernel
def test_each_kernel_agrees_with_the_reference(
    kernel: AttentionKernel, operands: tuple[str, str], causal: int, lengths: list[int]
) -> None:
    text = ALL_KEYS.format(tokens=operands[0], operands=operands[1], causal=causal)
    module = module_from(text)
    starts = np.array(list(itertools.accumulate(lengths, initial=0)), np.int64)
    given = tokens_for(module, sum(lengths)) | {"starts": starts}
    check(module, lower(module, attention=kernel), given)


PER_HEAD = """
    heads = Reshape (x, in_heads)
    product = MatMul (heads, turn)
    biased = Add (product, bias)
    unsqueezed = Unsqueeze (biased, zero_vector)
    q = Reshape (unsqueezed, joined)
"""
WHOLE = """
    product = MatMul (x, turn)
    biased = Add (bias, product)
    unsqueezed = Unsqueeze (biased, zero_vector)
    q = Squeeze (unsqueezed, zero_vector)
"""


@pytest.mark.parametrize(("operand", "width"), [(PER_HEAD, 2), (WHOLE, 8)], ids=["head", "whole"])
@pytest.mark.parametrize("lengths", [[3, 1, 0, 5], [4], [0]], ids=str)
def test_rows_are_made_of_what_was_before_other_shapes(
    operand: str, width: int, lengths: list[int]
) -> None:
    """The bias of a product goes behind the shape of rows only if it is as wide as they are."""
    text = ALL_KEYS.format(
        tokens="float[T,8] x, float[T,4] k, float[T,4] v", operands=operand, causal=0
    ).replace(
        "int64[3] widths",
        f"int64[3] in_heads = {{0, 4, 2}}, int64[2] joined = {{-1, 8}}, "
        f"int64[1] zero_vector = {{0}}, float[{width},{width}] turn, float[{width}] bias, "
        "int64[3] widths",
    )
    generator = np.random.default_rng(1)
    for name, sizes in (("turn", (width, width)), ("bias", (width,))):
        numbers = ", ".join(f"{x:.4f}" for x in generator.standard_normal(sizes).ravel())
        text = text.replace(f"] {name},", f"] {name} = {{{numbers}}},")
    module = module_from(text)
    starts = np.array(list(itertools.accumulate(lengths, initial=0)), np.int64)
    tokens = {
        name: generator.standard_normal((sum(lengths), size)).astype(np.float32)
        for name, size in (("x", 8), ("k", 4), ("v", 4))
    }
    lowered = lower(module)
    check(module, lowered, tokens | {"starts": starts})


@each_kernel
def test_what_each_kernel_is_made_of(kernel: AttentionKernel) -> None:
    text = ALL_KEYS.format(tokens=SEPARATE[0], operands="", causal=0)
    lowered = lower(module_from(text), attention=kernel)
    loops = [node for node in lowered.nodes() if node.op_type == "Loop"]
    assert len(loops) == {"rows": 1, "padded": 0}[kernel]


@pytest.mark.parametrize(
    ("lengths", "key_lengths", "causal"),
    [
        ([3, 1, 0, 5], [3, 1, 0, 5], 0),
        ([3, 1, 0, 5], [3, 1, 0, 5], 1),
        ([1, 2], [1, 1], 0),
        ([3, 0, 2], [2, 0, 1], 0),
        ([0, 0], [0, 0], 0),
        ([4], [4], 0),
        ([2, 2, 2], [2, 2, 2], 0),
        ([2, 2, 2], [2, 2, 2], 1),
        ([0, 2, 0, 2], [0, 2, 0, 2], 0),
        ([2, 2], [1, 2], 0),
    ],
)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.usefixtures("few_or_many")
@each_kernel
def test_keys_that_are_listed(
    target: str, kernel: AttentionKernel, lengths: list[int], key_lengths: list[int], causal: int
) -> None:
    text = ATTENTION.format(q_width=8, kv_width=4, heads=4, kv_heads=2, causal=causal)
    module = module_from(text)
    starts = list(itertools.accumulate(lengths, initial=0))
    keys = [s + i for s, n in zip(starts, key_lengths, strict=False) for i in range(n)]
    integers = {
        "starts": starts,
        "key_index": keys,
        "key_starts": list(itertools.accumulate(key_lengths, initial=0)),
    }
    given = tokens_for(module, sum(lengths))
    given |= {name: np.array(values, np.int64) for name, values in integers.items()}
    check(module, lower(module, target, attention=kernel), given)


ONE_QUERY = """
    g (float[B,8] q, float[T,4] k, float[T,4] v, int64[K] key_index, int64[N] key_starts)
        => (float[B,8] y)
    <int64 zero = {0}, int64 one = {1}>
    {
        count = Size (key_starts)
        starts = Range (zero, count, one)
        y = dechaff.VarlenAttention
            <q_num_heads = 4, kv_num_heads = 2, scale = 0.4, is_causal = 0>
            (q, k, v, starts, key_index, key_starts)
    }
"""


@pytest.mark.parametrize(
    ("key_lengths", "skipped"),
    [([3, 1, 5], []), ([3, 1, 5], [0, 4, 9]), ([1, 1], []), ([4], []), ([2, 2], [2])],
    ids=str,
)
@pytest.mark.parametrize("target", TARGETS)
def test_one_query_for_each_row(target: str, key_lengths: list[int], skipped: list[int]) -> None:
    module = module_from(ONE_QUERY)
    tokens = sum(key_lengths) + len(skipped)
    keys = [token for token in range(tokens) if token not in skipped]
    key_starts = list(itertools.accumulate(key_lengths, initial=0))
    given = tokens_for(module, tokens) | {
        "q": np.random.default_rng(1).standard_normal((len(key_lengths), 8)).astype(np.float32),
        "key_index": np.array(keys, np.int64),
        "key_starts": np.array(key_starts, np.int64),
    }
    lowered = lower(module, target)
    assert not {"If", "Loop"} & {node.op_type for node in lowered.nodes()}
    check(module, lowered, given)


def test_what_is_few_depends_on_the_width() -> None:
    limits = []
    for width in ("64", "768", "W"):
        graph = module_from(f"g (float[T,{width}] q) => (float[T,{width}] y) {{ y = Relu (q) }}")
        limits.append(few_tokens(graph.graph.inputs[0]))
    narrow, wide, unknown = limits
    assert narrow > wide == unknown
    assert few_tokens(None) == unknown


@pytest.mark.usefixtures("few_or_many")
def test_the_number_of_tokens_decides_at_run_time() -> None:
    module = module_from(ALL_KEYS.format(tokens=SEPARATE[0], operands="", causal=0))
    lowered = lower(module)
    outer = next(node for node in lowered.graph if node.op_type == "If")
    inner = next(n for n in outer.attributes["else_branch"].as_graph() if n.op_type == "If")
    few = inner.inputs[0]
    assert few is not None
    lowered.graph.outputs.append(few)
    limit = few_tokens(module.graph.inputs[0])
    for count in (0, 1, limit, limit + 1):
        starts = np.array([0, count // 2, count], np.int64)
        found = Session(lowered).run(tokens_for(module, count) | {"starts": starts})[few.name or ""]
        assert found == (0 < count <= limit)
