"""Which operators of a packed model a GPU runs by hand-written kernels, and their code."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tvm

from dechaff.backends.tvm import ProductChoice, cuda_compilation, resolve_target
from dechaff.backends.tvm.installation import has_nvcc
from dechaff.backends.tvm.kernels.attention_shape import VarlenAttentionShape
from dechaff.backends.tvm.kernels.decode_attention import decode_attention
from dechaff.backends.tvm.kernels.decode_work import DecodeAttentionShape
from dechaff.backends.tvm.kernels.varlen_attention import varlen_attention
from dechaff.backends.tvm.kernels.warpgroup_attention import warpgroup_attention
from dechaff.backends.tvm.relax_module import to_relax
from dechaff.backends.tvm.token_counting import COUNT_TOKENS, room_for
from dechaff.ir import parse

from .kernel_sources import cuda_source

PACKED = """
    <ir_version: 10, opset_import: ["": 23, "dechaff": 1]>
    packed (float16[B,S,64] x, bool[B,S] mask) => (float16[B,S,64] y)
    <float16[64,64] weight, float16[64] bias, int64 zero = {0}, int64 one = {1}>
    {
        index, starts, position = dechaff.TokenLayout (mask)
        count = Size (index)
        keys = Range (zero, count, one)
        rows = dechaff.Pack (x, index, mask)
        first = dechaff.VarlenAttention
            <q_num_heads = 1, kv_num_heads = 1, scale = 0.125, is_causal = 0>
            (rows, rows, rows, starts, keys, starts)
        second = dechaff.VarlenAttention
            <q_num_heads = 1, kv_num_heads = 1, scale = 0.125, is_causal = 0>
            (first, first, first, starts, keys, starts)
        y = dechaff.Unpack (second, index, mask)
    }
"""


def relax_text(products: ProductChoice | None = None) -> tuple[str, dict[str, int]]:
    lowered = to_relax(parse(PACKED), "cuda", "sm_90", products)
    functions = {
        name: function
        for name, function in lowered.module.functions.items()
        if isinstance(function, tvm.relax.Function)
    }
    return str(tvm.IRModule(functions).script()), lowered.kernels


def test_a_packed_model_runs_by_kernels_without_reading_sizes_back() -> None:
    text, kernels = relax_text()
    assert kernels == {"Pack": 1, "TokenLayout": 1, "Unpack": 1, "VarlenAttention": 2}
    assert COUNT_TOKENS in text
    main = text[text.index("def main(") :]
    assert "R.Shape([tokens_1])" in main
    assert "tensor_to_shape" not in main


def test_two_layers_share_the_list_of_query_tiles() -> None:
    text, _ = relax_text()
    assert len(re.findall(r"R\.call_tir\((?:cls\.)?query_tiles", text)) == 1
    assert len(re.findall(r"R\.call_tir\((?:cls\.)?varlen_attention", text)) == 2


EMBEDDED = """
    <ir_version: 10, opset_import: ["": 23, "dechaff": 1]>
    embedded (int64[B,S] ids, bool[B,S] mask, float16[9,8] words, float16[2,8] types)
        => (float[B,S,8] y)
    {
        index, starts, position = dechaff.TokenLayout (mask)
        packed = dechaff.Pack (ids, index, mask)
        word = Gather (words, packed)
        type = Gather (types, packed)
        sum = Add (word, type)
        y16 = dechaff.Unpack (sum, index, mask)
        y = Cast <to = 1> (y16)
    }
"""


def embedded(*changes: tuple[str, str]) -> dict[str, int]:
    text = EMBEDDED
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return to_relax(parse(text), "cuda", "sm_90").kernels


def test_embeddings_are_gathered_and_summed_by_one_kernel_and_cast_where_unpacked() -> None:
    assert embedded() == {"TokenLayout": 1, "Gather": 2, "Add": 1, "Unpack": 1, "Cast": 1}


@pytest.mark.parametrize(
    ("lost", "changes"),
    [
        pytest.param("Gather", [(",8]", ",12]")], id="rows that are no multiple of 16 bytes"),
        pytest.param(
            "Gather",
            [
                ("float16[9,8] words", "float16[9,1,8] words"),
                ("float16[2,8] types", "float16[2,1,8] types"),
                ("float[B,S,8] y", "float[B,S,1,8] y"),
            ],
            id="no table",
        ),
        pytest.param("Add", [("Add (word, type)", "Add (word, word)")], id="read twice"),
        pytest.param(
            "Cast",
            [("to = 1>", "to = 11>"), ("float[B,S,8] y", "double[B,S,8] y")],
            id="another dtype",
        ),
    ],
)
def test_each_condition_alone_leaves_it_to_the_plain_emitter(
    lost: str, changes: list[tuple[str, str]]
) -> None:
    assert lost in embedded()
    assert lost not in embedded(*changes)


@pytest.mark.parametrize(("tokens", "room"), [(0, 64), (1, 64), (64, 64), (65, 128)])
def test_room_is_made_in_steps(tokens: int, room: int) -> None:
    assert room_for(tokens) == room


def _attention(make: Any, dtype: str) -> Any:
    return make(VarlenAttentionShape(12, 12, 64, dtype, scale=0.125, fused_qkv=True))


KERNELS = [
    pytest.param(_attention(varlen_attention, "bfloat16"), "sm_80", r"mma\.sync", id="sm_80"),
    pytest.param(_attention(warpgroup_attention, "float16"), "sm_90", r"wgmma", id="sm_90"),
    pytest.param(
        decode_attention(DecodeAttentionShape(32, 8, 128))[0], "sm_80", r"mma\.sync", id="decode"
    ),
]


@pytest.mark.skipif(not has_nvcc(), reason="no nvcc on PATH: CUDA is not compiled here")
@pytest.mark.parametrize(("kernel", "arch", "instruction"), KERNELS)
def test_attention_kernels_compile_and_use_tensor_cores(
    kernel: Any, arch: str, instruction: str
) -> None:
    source = cuda_source(kernel, arch)
    assert re.search(instruction, source)
    assert re.search(r"\.f32\.(b?f16)\.\1", source), "sums are not float32"
    with resolve_target(f'{{"kind": "cuda", "arch": "{arch}"}}'):
        assert cuda_compilation.compile_cuda(source)
