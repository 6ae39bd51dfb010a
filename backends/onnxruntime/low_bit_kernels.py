"""Which low-bit kernels this machine has: the runtime's registry, and the processor's flags."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from .kernels import has_kernel
from .processor import instruction_sets, products_saturate

_CONTRIB_DOMAIN = "com.microsoft"


@dataclasses.dataclass(frozen=True)
class LowBitKernel:
    """One way to compute with few bits.

    Attributes:
        what: what it computes.
        operator: the operator of ONNX Runtime.
        available: whether the installed runtime has it for this machine.
        remark: what to know before choosing it.
    """

    what: str
    operator: str
    available: bool
    remark: str


def low_bit_kernels() -> tuple[LowBitKernel, ...]:
    """The kernels that the quantizing passes are lowered to."""
    return tuple(
        LowBitKernel(what, operator, has_kernel(operator, domain, dtype), remark)
        for what, operator, domain, dtype, remark in (
            (
                "8-bit products, uint8 with int8",
                "MatMulIntegerToFloat",
                _CONTRIB_DOMAIN,
                ir.DataType.UINT8,
                _remark_on_products(),
            ),
            (
                "2-bit, 4-bit and 8-bit weights",
                "MatMulNBits",
                _CONTRIB_DOMAIN,
                ir.DataType.FLOAT,
                "saves memory; 8-bit products are faster where tokens are many, and weights of 4 "
                "bits faster than those of 2",
            ),
            (
                "4-bit embeddings",
                "GatherBlockQuantized",
                _CONTRIB_DOMAIN,
                ir.DataType.UINT8,
                "saves memory",
            ),
            (
                "float16 products",
                "MatMul",
                "",
                ir.DataType.FLOAT16,
                "for GPUs: elsewhere the runtime casts to float32 and back",
            ),
        )
    )


def _remark_on_products() -> str:
    found = ", ".join(sorted(instruction_sets())) or "no instructions for them are known"
    if products_saturate():
        return f"weights keep to 7 bits, as sums saturate ({found})"
    return f"weights of 8 bits, exact sums ({found})"
