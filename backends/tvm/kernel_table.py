"""The seam for hand-written kernels: by kind of target, which operator has one.

A provider is called with the :class:`~.emission.Emission` and the node, as an emitter is. It reads
its operands by ``emission.tensor(value)``, their sizes (expressions of TVM, symbolic ones too) by
``emission.shape(expr)``, their dtype by ``emission.dtype(expr)``, the architecture by
``emission.arch``, attributes by ``attribute(node, name, default)``. It calls a TIR function by
``emission.call_kernel(primfunc, name, args, [(shape, dtype), ...])`` and gives the expression of
each output. It returns None to decline (a size, a dtype or an architecture that it does not
serve): the operator's plain emitter in ``emitters.py`` is then used.

A function that is scheduled already carries the attribute ``tirx.is_scheduled`` and, as fusion must
leave it alone, ``op_pattern: 8`` (opaque).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from . import cuda_kernels, dense_products, row_kernels
from .decode_attention import provide_decode_attention
from .emission import Emission, Expr

KernelProvider = Callable[[Emission, ir.Node], Expr | Sequence[Expr] | None]
"""Emits a node by a kernel of its own, or declines with None."""

KERNELS: dict[str, dict[str, KernelProvider]] = {
    "cuda": {
        "Add": row_kernels.provide_add,
        "Attention": provide_decode_attention,
        "BiasGelu": cuda_kernels.provide_gelu,
        "BiasSkipLayerNormalization": cuda_kernels.provide_normalization,
        "Cast": row_kernels.provide_cast,
        "Gather": row_kernels.provide_gather,
        "Gelu": cuda_kernels.provide_gelu,
        "LayerNormalization": cuda_kernels.provide_normalization,
        "MatMul": dense_products.provide_mat_mul,
        "Pack": row_kernels.provide_pack,
        "RMSNormalization": cuda_kernels.provide_normalization,
        "SkipLayerNormalization": cuda_kernels.provide_normalization,
        "SkipRMSNormalization": cuda_kernels.provide_normalization,
        "TokenLayout": row_kernels.provide_token_layout,
        "Unpack": row_kernels.provide_unpack,
        "VarlenAttention": cuda_kernels.provide_varlen_attention,
    },
    "llvm": {
        "Add": dense_products.provide_add,
        "BiasGelu": dense_products.provide_gelu,
        "Gelu": dense_products.provide_gelu,
        "MatMul": dense_products.provide_mat_mul,
    },
}
"""Providers by kind of target and operator, dialect and standard operators alike."""


def kernel_for(target: str, op_type: str) -> KernelProvider | None:
    """The provider for an operator on a kind of target, or None."""
    return KERNELS.get(target, {}).get(op_type)
