"""Bias and GELU in one pass."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T

from .device_functions import error_function, hyperbolic_tangent, load_eight, store_eight
from .parameters import with_parameters


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
        row: T.let[T.int32] = (block * 256 + thread) // chunks
        column: T.let[T.int32] = (block * 256 + thread) % chunks * 8
        if row < tokens:
            load_eight(values.access_ptr("w"), T.address_of(x[row, column]), dtype)
            if has_bias:
                load_eight(extra.access_ptr("w"), T.address_of(bias[column]), dtype)
                for i in T.unroll(8):
                    values[i] = values[i] + extra[i]
            for i in T.unroll(8):
                if approximate:
                    extra[i] = hyperbolic_tangent(
                        (values[i] + T.float32(0.044715) * values[i] * values[i] * values[i])
                        * T.float32(math.sqrt(2 / math.pi))
                    )
                else:
                    extra[i] = error_function(values[i] * T.float32(math.sqrt(0.5)))
                values[i] = T.float32(0.5) * values[i] * (T.float32(1) + extra[i])
            store_eight(T.address_of(y[row, column]), values.access_ptr("r"), dtype)

    return with_parameters(bias_gelu, (True, has_bias, True))
