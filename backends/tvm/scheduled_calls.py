"""Calls of kernels that are scheduled by hand, on tensors seen as rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax, s_tir, tirx

from .emission import Emission, Expr

OPAQUE = 8
"""TVM's pattern of an operator that fusion leaves alone."""


def call_scheduled(
    emission: Emission,
    kernel: Any,
    name: str,
    args: Sequence[Expr],
    outputs: Sequence[tuple[Sequence[Any], str]],
    sizes: Sequence[Any] = (),
) -> Expr:
    """Call a kernel of ``kernels/``.

    Args:
        emission: the function under construction.
        kernel: takes ``args``, then ``sizes`` as int64 scalars, then its outputs.
        name: what it is called in the generated code.
        args: the tensors it reads.
        outputs: shape and dtype of each tensor it writes.
        sizes: numbers it is told.

    Returns:
        The output, or a tuple of several.
    """
    private = in_block(kernel).without_attr("global_symbol").with_attr("op_pattern", OPAQUE)
    function = emission.builder.add_func(private, name)
    types = [relax.TensorType(list(shape), dtype) for shape, dtype in outputs]
    return emission.emit(
        relax.call_tir(
            function,
            [*args, *sizes],
            types[0] if len(types) == 1 else types,
        )
    )


def in_block(kernel: Any) -> Any:
    """The kernel with its body in a block, as passes over Relax modules expect of every kernel."""
    block = s_tir.SBlock([], [], [], "root", kernel.body)
    return kernel.with_body(s_tir.SBlockRealize([], True, block))


def is_half(emission: Emission, x: Expr) -> bool:
    """Whether a tensor has 16-bit floats."""
    return emission.dtype(x) in ("float16", "bfloat16")


def as_rows(emission: Emission, x: Expr) -> Expr:
    """[..., D] as [rows, D]."""
    shape = emission.shape(x)
    if len(shape) == 2:
        return x
    rows: Any = math.prod(shape[:-1], start=tirx.IntImm("int64", 1))
    return emission.emit(relax.op.reshape(x, [emission.sizes.simplify(rows), shape[-1]]))


def like_rows(emission: Emission, rows: Expr, shape: Sequence[Any]) -> Expr:
    """Rows in another shape, if it is another."""
    own = emission.shape(rows)
    same = len(own) == len(shape) and all(
        emission.sizes.equal(a, b) for a, b in zip(own, shape, strict=True)
    )
    return rows if same else emission.emit(relax.op.reshape(rows, list(shape)))
