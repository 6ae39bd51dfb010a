"""The CUDA source that TVM generates for a kernel, without compiling it."""

from __future__ import annotations

from typing import Any

import tvm

from dechaff.backends.tvm import resolve_target


def cuda_source(kernel: Any, arch: str = "sm_90") -> str:
    """Source of a module that holds this kernel alone."""
    target = resolve_target(f'{{"kind": "cuda", "arch": "{arch}"}}')
    module = tvm.IRModule({"kernel": kernel.with_attr("global_symbol", "kernel")})
    return str(tvm.tirx.build(module, target=target).imports[0].inspect_source())
