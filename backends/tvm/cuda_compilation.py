"""How TVM has generated CUDA source compiled: by nvcc, for the architecture the source asks for."""

from __future__ import annotations

import tvm_ffi
from tvm.support import nvcc
from tvm.target import Target

_OF_ONE_ARCHITECTURE = "wgmma."
"""Instructions that only an architecture with the suffix ``a`` has, such as ``sm_90a``."""


@tvm_ffi.register_global_func(  # type: ignore[untyped-decorator]
    "tvm_callback_cuda_compile", override=True
)
def compile_cuda(source: str) -> bytes:
    """The machine code of a module's kernels, for the current target.

    TVM's schedules do not read ``sm_90a``, and take no tensor cores on a target of that name.
    Targets are therefore ``sm_90``, and the suffix is added where a kernel of ours needs it; the
    code then runs on that architecture alone, as it would in any case.
    """
    target = Target.current(allow_none=True)
    suffix = str(target.attrs["arch"]).removeprefix("sm_") if target is not None else "90"
    if _OF_ONE_ARCHITECTURE in source and not suffix.endswith("a"):
        suffix += "a"
    architecture = ["-gencode", f"arch=compute_{suffix},code=sm_{suffix}"]
    return bytes(nvcc.compile_cuda(source, "cubin", architecture, compiler="nvcc"))
