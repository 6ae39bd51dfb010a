"""Which kernels the installed ONNX Runtime really has.

Many contrib operators have a schema and no CPU kernel (``RemovePadding``, ``PackedAttention``,
``BiasSoftmax``, ...): a node for one of them fails when the session is made. Ask here first.
"""

from __future__ import annotations

import functools
from typing import Any

import onnx_ir as ir

_PROVIDER = "CPUExecutionProvider"

_RUNTIME_TYPE_NAMES = {
    ir.DataType.FLOAT: "tensor(float)",
    ir.DataType.FLOAT16: "tensor(float16)",
    ir.DataType.BFLOAT16: "tensor(bfloat16)",
    ir.DataType.DOUBLE: "tensor(double)",
    ir.DataType.INT64: "tensor(int64)",
    ir.DataType.INT32: "tensor(int32)",
    ir.DataType.INT8: "tensor(int8)",
    ir.DataType.UINT8: "tensor(uint8)",
    ir.DataType.BOOL: "tensor(bool)",
}


@functools.cache
def _kernels() -> dict[tuple[str, str], list[Any]]:
    """CPU kernel definitions by (domain, operator)."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    kernels: dict[tuple[str, str], list[Any]] = {}
    for definition in get_all_opkernel_def():
        if definition.provider == _PROVIDER:
            kernels.setdefault((definition.domain, definition.op_name), []).append(definition)
    return kernels


def has_kernel(op_type: str, domain: str, dtype: ir.DataType, version: int = 1) -> bool:
    """Whether the runtime has a CPU kernel for the operator at that version and data type.

    The data type is looked for in any of the kernel's type constraints: contrib operators of the
    Transformer family have one floating-point type for all their tensors.
    """
    wanted = _RUNTIME_TYPE_NAMES.get(dtype)
    for definition in _kernels().get((domain, op_type), []):
        first, last = definition.version_range
        if not first <= version <= last:
            continue
        if any(wanted in types for types in definition.type_constraints.values()):
            return True
    return False
