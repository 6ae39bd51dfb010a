"""What a TVM target needs on this machine, and one clear line where it is missing."""

from __future__ import annotations

import importlib.util
import shutil

from dechaff.ir import MissingPackageError, UsageError


def require_tvm(purpose: str) -> None:
    """Nothing, if TVM can be imported.

    Raises:
        MissingPackageError: it is not installed.
    """
    if importlib.util.find_spec("tvm") is None:
        raise MissingPackageError("apache-tvm", "tvm", purpose)


def has_nvcc() -> bool:
    """Whether CUDA's compiler is on the path."""
    return shutil.which("nvcc") is not None


def require_nvcc() -> None:
    """Nothing, if CUDA source can be compiled here.

    Raises:
        UsageError: there is no nvcc.
    """
    if not has_nvcc():
        raise UsageError(
            "target cuda needs the compiler nvcc, which is not on PATH: install the CUDA toolkit "
            "(12 or newer), or choose --target llvm"
        )
