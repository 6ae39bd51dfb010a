"""Compiled models on disk: shared libraries, written as a whole or not at all."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from dechaff.ir import ModelRejectedError, UsageError

from .file_replacement import replace_file, staging_folder

if TYPE_CHECKING:
    from dechaff.backends.tvm.compiled_model import CompiledModel

LIBRARY_SUFFIX = ".so"


def is_library(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a library rather than an ONNX file."""
    return os.fspath(path).endswith(LIBRARY_SUFFIX)


def save_library(compiled: CompiledModel | None, path: str | os.PathLike[str], source: str) -> None:
    """Write generated code as a shared library.

    Raises:
        UsageError: there is no generated code, no linker, or the folder cannot be written to.
    """
    if compiled is None:
        raise UsageError(
            f"{source}: a library ({LIBRARY_SUFFIX}) holds generated code, and ONNX Runtime runs "
            "this model: optimize it with target='llvm' or target='cuda', or save it as NAME.onnx"
        )
    target = pathlib.Path(path)
    with staging_folder(target) as folder:
        staged = folder / target.name
        compiled.export(staged)
        replace_file(staged, target)


def load_library(path: str | os.PathLike[str]) -> CompiledModel:
    """A library that :func:`save_library` wrote.

    Raises:
        ModelRejectedError: there is no such file, or it is something else.
        MissingPackageError: TVM is not installed.
    """
    if not os.path.isfile(path):
        raise ModelRejectedError(f"{os.fspath(path)}: there is no such file")
    from dechaff.backends.tvm import load_library as load

    return load(path)
