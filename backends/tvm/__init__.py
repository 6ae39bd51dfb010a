"""IR to machine code by TVM: CUDA for a GPU, LLVM for a CPU and to check the same code without one.

Nothing here loads TVM before a function is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dechaff.ir import Module

from .installation import require_tvm
from .product_choice import ProductChoice

if TYPE_CHECKING:
    from .compiled_model import CompiledModel


def resolve_target(text: str) -> Any:
    """TVM's target for ``cuda``, ``llvm``, a tag of TVM, or a target as JSON.

    Raises:
        MissingPackageError: TVM is not installed.
        UsageError: there is no such target.
    """
    require_tvm(f"target {text}")
    from .targets import resolve_target as resolve

    return resolve(text)


def compile_module(
    module: Module,
    target: Any,
    *,
    tuning_log: str | os.PathLike[str] | None = None,
    sizes: Mapping[str, int] | None = None,
    products: ProductChoice | None = None,
) -> CompiledModel:
    """Compile a module for a target of :func:`resolve_target`; it is not changed.

    Args:
        module: an optimized module; dialect operators may be in it.
        target: TVM's target.
        tuning_log: a folder that ``dechaff tune`` wrote; None for default schedules.
        sizes: the sizes to expect, by symbol, which choose among the sizes that were tuned.
        products: who computes matrix products with constant weights; kernels of ours by default.

    Raises:
        UsageError: the target needs a compiler that is not installed, or the log has nothing for
            this target.
        LoweringRejectedError: operators that are not lowered; the message lists all of them.
        BuildFailedError: TVM failed on the lowered model.
    """
    from .build import Tuning
    from .build import compile_module as compile_lowered

    tuning = Tuning(tuning_log, sizes or {}) if tuning_log is not None else None
    return compile_lowered(module, target, tuning, products)


def log_tools(log: str | os.PathLike[str]) -> Any:
    """The module :mod:`~.tuning.logs`, for a log.

    Raises:
        MissingPackageError: TVM is not installed.
    """
    require_tvm(f"the tuning log {os.fspath(log)}")
    from .tuning import logs

    return logs


def choose_products(
    module: Module,
    target: Any,
    *,
    sizes: Mapping[str, int],
    tuning_log: str | os.PathLike[str] | None = None,
    measure: bool = False,
    cached: Callable[[dict[str, Any], Callable[[], dict[str, Any]]], dict[str, Any]] | None = None,
) -> ProductChoice:
    """Who computes each dense layer of a module: what was faster, as far as it was measured.

    Args:
        module: an optimized module.
        target: what :func:`resolve_target` gave.
        sizes: the sizes to expect, by symbol.
        tuning_log: a folder of ``dechaff tune``, whose measurements are taken.
        measure: whether to measure here what the log lacks; the target's device must be here.
        cached: given what a measurement depends on, and what measures: the measurement, as plain
            data.

    Raises:
        UsageError: the log has nothing for this target.
        LoweringRejectedError: operators that are not lowered.
    """
    from .tuning.product_choosing import choose_products as choose

    return choose(
        module, target, sizes, tuning_log, measure, cached or (lambda _, compute: compute())
    )


def device_exists(target: Any) -> bool:
    """Whether this machine has a device of the target's kind."""
    from .targets import device_exists as exists

    return exists(target)


def load_library(path: str | os.PathLike[str]) -> CompiledModel:
    """A compiled model that was saved as a shared library. Load trusted files only.

    Raises:
        MissingPackageError: TVM is not installed.
        ModelRejectedError: it is no such library.
    """
    require_tvm(f"loading {os.fspath(path)}")
    from .compiled_model import load_library as load

    return load(path)


__all__ = [
    "ProductChoice",
    "choose_products",
    "compile_module",
    "device_exists",
    "load_library",
    "log_tools",
    "resolve_target",
]
