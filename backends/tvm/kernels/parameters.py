"""Kernels with optional parameters are written once, with all of them."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx


def with_parameters(kernel: tirx.PrimFunc, present: Sequence[bool]) -> tirx.PrimFunc:
    """The kernel without the parameters that this variant does not use.

    Args:
        kernel: all parameters are buffers; its body must not touch the absent ones.
        present: for each parameter, whether the variant has it.
    """
    kept = [p for p, is_present in zip(kernel.params, present, strict=True) if is_present]
    return tirx.PrimFunc(kept, kernel.body, kernel.ret_type, kernel.attrs)
