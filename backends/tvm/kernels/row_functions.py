"""Neighbours in global memory to float32 registers and back, as device functions."""

from __future__ import annotations

from typing import Any

from .device_functions import device_call

_LOAD_PAIRS = {
    "float16": "    float2 pair = __half22float2(((const __half2*)&words)[i]);\n",
    "bfloat16": "    float2 pair = __bfloat1622float2(((const __nv_bfloat162*)&words)[i]);\n",
}
_STORE_PAIRS = {
    "float16": "    ((__half2*)&words)[i] = __floats2half2_rn(r[2 * i], r[2 * i + 1]);\n",
    "bfloat16": "    ((__nv_bfloat162*)&words)[i] =\n"
    "        __floats2bfloat162_rn(r[2 * i], r[2 * i + 1]);\n",
}


def load_eight(registers: Any, source: Any, dtype: str) -> Any:
    """Eight neighbours in global memory to float32 registers; ``source`` is aligned to 16 bytes."""
    if dtype == "float32":
        body = (
            "  float4 low = ((const float4*)source)[0], high = ((const float4*)source)[1];\n"
            "  r[0] = low.x; r[1] = low.y; r[2] = low.z; r[3] = low.w;\n"
            "  r[4] = high.x; r[5] = high.y; r[6] = high.z; r[7] = high.w;"
        )
    else:
        body = (
            "  uint4 words = *(const uint4*)source;\n"
            "  #pragma unroll\n"
            "  for (int i = 0; i < 4; i++) {\n"
            f"{_LOAD_PAIRS[dtype]}"
            "    r[2 * i] = pair.x; r[2 * i + 1] = pair.y;\n  }"
        )
    return device_call(
        f"dechaff_load_eight_{dtype}",
        registers,
        source,
        signature="float* r, const void* source",
        body=body,
    )


def store_eight(destination: Any, registers: Any, dtype: str) -> Any:
    """Eight float32 registers, rounded, to neighbours in global memory, aligned to 16 bytes."""
    if dtype == "float32":
        body = (
            "  ((float4*)destination)[0] = make_float4(r[0], r[1], r[2], r[3]);\n"
            "  ((float4*)destination)[1] = make_float4(r[4], r[5], r[6], r[7]);"
        )
    else:
        body = (
            "  uint4 words;\n"
            "  #pragma unroll\n"
            f"  for (int i = 0; i < 4; i++) {{\n{_STORE_PAIRS[dtype]}  }}\n"
            "  *(uint4*)destination = words;"
        )
    return device_call(
        f"dechaff_store_eight_{dtype}",
        destination,
        registers,
        signature="void* destination, const float* r",
        body=body,
    )


def load_pair(registers: Any, source: Any, dtype: str) -> Any:
    """Two neighbours in global memory to float32 registers; ``source`` is aligned to 4 bytes."""
    vector, convert = {
        "float16": ("__half2", "__half22float2"),
        "bfloat16": ("__nv_bfloat162", "__bfloat1622float2"),
    }[dtype]
    return device_call(
        f"dechaff_load_pair_{dtype}",
        registers,
        source,
        signature="float* r, const void* source",
        body=f"  float2 pair = {convert}(*(const {vector}*)source);\n"
        "  r[0] = pair.x; r[1] = pair.y;",
    )
