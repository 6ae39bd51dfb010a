"""Generated source, cut into the functions that it defines."""

from __future__ import annotations

import re

_CUDA = re.compile(
    r'^extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\([^;{]*\{', re.M
)
_LLVM = re.compile(r'^define [^@\n]*@"?([\w.]+)"?\(', re.M)
_END = "\n}\n"

_ENTRY = "__tvm_ffi_"
"""Beginning of the name of a kernel for a CPU, as TVM calls it."""

_OF_THE_RUNTIME = ("__tvm_", "llvm.", "dechaff_")
"""Beginnings of names of functions that compute nothing of the model."""


def generated_kernels(source: str) -> dict[str, str]:
    """The functions that CUDA C++, or LLVM's intermediate form, defines: source by name.

    What several of them share (includes, device functions, declarations) is left out.
    """
    found = {}
    for pattern in (_CUDA, _LLVM):
        for match in pattern.finditer(source):
            name = match[1].removeprefix(_ENTRY)
            if not name.startswith(_OF_THE_RUNTIME):
                end = source.find(_END, match.end())
                found[name] = source[match.start() : end + len(_END) if end >= 0 else None]
    return found
