"""Bias and GELU in one pass."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.script import tirx as T  # noqa: N812

from .device_functions import exp2, reciprocal
from .parameters import with_parameters
from .row_functions import load_eight, store_eight

# GELU is x * P(x) with P(x) = 1 / (1 + 2 ** -(x * polynomial(x ** 2))). For the tanh formula two
# terms say it exactly. For the error function four are a minimax fit on |x| < 5.4, with x ** 2 cut
# to 29 beyond: GELU errs by less than 1.2e-5, a fifth of float16's unit at 0.1. CUDA's own erf
# takes three times as many instructions, and made the kernel wait for arithmetic, not for memory.
_TANH = 2 * math.sqrt(2 / math.pi) * math.log2(math.e)
POLYNOMIALS = {
    "gelu_tanh": (_TANH, _TANH * 0.044715, 0.0, 0.0),
    "gelu": (2.3016471605033737, 0.10598272656232183, -7.36060986169344e-4, -2.483638931341e-5),
}
LARGEST_SQUARE = {"gelu_tanh": 3e38, "gelu": 29.0}


def gelu_macro(activation: str) -> Any:
    """``apply(values, i, scratch)``: GELU of one float32 register; ``gelu`` or ``gelu_tanh``."""
    p0, p1, p2, p3 = POLYNOMIALS[activation]
    largest = LARGEST_SQUARE[activation]

    @T.macro
    def apply(values, i, scratch):
        scratch[0] = T.min(values[i] * values[i], T.float32(largest))
        scratch[0] = (
            (T.float32(p3) * scratch[0] + T.float32(p2)) * scratch[0] + T.float32(p1)
        ) * scratch[0] + T.float32(p0)
        values[i] = values[i] * reciprocal(
            T.float32(1) + exp2(T.float32(0) - values[i] * scratch[0])
        )

    return apply


def bias_gelu(
    size: int, dtype: str = "float16", has_bias: bool = True, approximate: bool = False
) -> tirx.PrimFunc:
    """The kernel: ``(x, [bias], y)``, ``y = gelu(x + bias)``; x, y: [T, size], bias: [size].

    Args:
        size: columns, a multiple of 8.
        dtype: of the tensors; the arithmetic is float32.
        has_bias: false where the GEMM has added it already.
        approximate: the tanh formula; else the error function's. The graph says which: they
            differ by up to 4.7e-4.
    """
    chunks = size // 8
    apply = gelu_macro("gelu_tanh" if approximate else "gelu")

    @T.prim_func(s_tir=True)
    def bias_gelu(x_handle: T.handle, bias_handle: T.handle, y_handle: T.handle):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        tokens = T.int32()
        x = T.match_buffer(x_handle, (tokens, size), dtype)
        bias = T.match_buffer(bias_handle, (size,), dtype)
        y = T.match_buffer(y_handle, (tokens, size), dtype)
        block = T.launch_thread("blockIdx.x", (tokens * chunks + 255) // 256)
        thread = T.launch_thread("threadIdx.x", 256)
        values = T.alloc_buffer((8,), "float32", scope="local")
        extra = T.alloc_buffer((8,), "float32", scope="local")
        scratch = T.alloc_buffer((1,), "float32", scope="local")
        row: T.let[T.int32] = (block * 256 + thread) // chunks
        column: T.let[T.int32] = (block * 256 + thread) % chunks * 8
        if row < tokens:
            load_eight(values.access_ptr("w"), T.address_of(x[row, column]), dtype)
            if has_bias:
                load_eight(extra.access_ptr("w"), T.address_of(bias[column]), dtype)
                for i in T.unroll(8):
                    values[i] = values[i] + extra[i]
            for i in T.unroll(8):
                apply(values, i, scratch)
            store_eight(T.address_of(y[row, column]), values.access_ptr("r"), dtype)

    return with_parameters(bias_gelu, (True, has_bias, True))
