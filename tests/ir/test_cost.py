from __future__ import annotations

import pytest

from dechaff.ir import graph_cost, infer_shapes, num_parameters, parse, symbol

HEADER = '<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>\n'
B, S, T, N = (symbol(name) for name in "BSTN")

FLOPS = {
    "MatMul": (
        "g (float[B,S,8] x, float[8,3] w) => (float[B,S,3] y) { y = MatMul (x, w) }",
        2 * B * S * 8 * 3,
    ),
    "Gemm": (
        "g (float[N,8] x, float[3,8] w) => (float[N,3] y) { y = Gemm <transB = 1> (x, w) }",
        2 * N * 8 * 3,
    ),
    "Gemm of a transposed operand": (
        "g (float[8,N] x, float[8,3] w) => (float[N,3] y) { y = Gemm <transA = 1> (x, w) }",
        2 * N * 8 * 3,
    ),
    "Attention": (
        "g (float[B,S,8] x) => (float[B,S,8] y) "
        "{ y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x) }",
        4 * B * S * S * 8,
    ),
    "Attention with split heads": (
        "g (float[B,2,S,4] x) => (float[B,2,S,4] y) { y = Attention (x, x, x) }",
        4 * B * S * S * 8,
    ),
    "VarlenAttention": (
        "g (float[T,8] x, int64[N] s, int64[T] i) => (float[T,8] y) { y = dechaff.VarlenAttention "
        "<q_num_heads = 2, kv_num_heads = 2, scale = 1.0, is_causal = 0> (x, x, x, s, i, s) }",
        4 * T * T / (N - 1) * 8,
    ),
    "elementwise": ("g (float[B,S] x) => (float[B,S] y) { y = Relu (x) }", B * S),
    "moving data": (
        "g (float[B,S] x) => (float[S,B] y) { y = Transpose <perm = [1, 0]> (x) }",
        0,
    ),
    "bookkeeping on integers": ("g (int64[B,S] x) => (int64[B,S] y) { y = Add (x, x) }", 0),
}


@pytest.mark.parametrize("case", FLOPS)
def test_flops_are_a_formula_in_the_sizes(case: str) -> None:
    text, expected = FLOPS[case]
    module = parse(HEADER + text)
    infer_shapes(module)
    assert (graph_cost(module).flops - expected).expand() == 0


def test_bytes_count_each_operand_once() -> None:
    module = parse(HEADER + "g (float16[B,S] x) => (float16[B,S] y) { y = Relu (x) }")
    infer_shapes(module)
    assert graph_cost(module).bytes_moved == 4 * B * S


def test_a_formula_is_evaluated_at_sizes() -> None:
    module = parse(HEADER + FLOPS["MatMul"][0])
    infer_shapes(module)
    flops, _ = graph_cost(module).at({"B": 2, "S": 5})
    assert flops == 2 * 2 * 5 * 8 * 3


def test_parameters_are_counted() -> None:
    module = parse(
        HEADER + "g (float[N,2] x) => (float[N,2] y) <float[2] b = {1, 2}> { y = Add (x, b) }"
    )
    assert num_parameters(module) == 2
