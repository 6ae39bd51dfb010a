"""Weights that are read where they lie in a file: their pages count as this process's memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterable

import onnx_ir as ir


def unload_mapped(values: Iterable[ir.Value]) -> None:
    """Give back the memory of weights that lie in a file; what is read again comes from there."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for value in values:
        mapped = getattr(value.const_value, "raw", None)
        if isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_DONTNEED)
