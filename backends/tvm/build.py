"""From Relax to machine code: the passes of TVM that run, in order, for each kind of target."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tvm
from tvm import relax
from tvm.s_tir import dlight

from dechaff.ir import DechaffError, Module

from . import cuda_compilation  # noqa: F401  # it registers the compiler
from .compiled_model import CompiledModel
from .emission import WRITTEN
from .installation import require_nvcc
from .library_calls import LINEAR, LINEAR_GELU
from .product_choice import ProductChoice
from .relax_module import ENTRY, to_relax
from .scheduled_calls import OPAQUE
from .signature import signature_of
from .signature_function import add_signature
from .tensor_intrinsics import load_tensor_intrinsics
from .tuning.application import apply_log
from .tuning.log_folder import TargetLog


class BuildFailedError(DechaffError):
    """TVM, or the compiler behind it, failed on the lowered model."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A tuning log to apply.

    Attributes:
        log: its folder.
        sizes: the sizes to expect, by symbol of the inputs, and ``T`` for the packed tokens.
    """

    log: str | os.PathLike[str]
    sizes: Mapping[str, int]


def compile_module(
    module: Module,
    target: Any,
    tuning: Tuning | None = None,
    products: ProductChoice | None = None,
) -> CompiledModel:
    """Compile a module for a target of TVM; dialect operators may be in it.

    Args:
        module: the optimized module, not lowered for another backend. It is not changed.
        target: what :func:`~.targets.resolve_target` gave.
        tuning: a tuning log and the sizes to expect; None for default schedules.
        products: who computes matrix products with constant weights.

    Raises:
        UsageError: the target needs a compiler that is not installed.
        LoweringRejectedError: operators that are not lowered.
        BuildFailedError: TVM failed on the lowered model.
    """
    kind = target.kind.name
    if kind == "cuda":
        require_nvcc()
    lowered = to_relax(module, kind, architecture(target), products)
    signature = signature_of(module, str(target))
    add_signature(lowered.module, signature)
    with _as_build_failure(module.source, target):
        fused = fuse(lowered.module, target)
        applied = None
        if tuning is not None:
            applied = apply_log(fused, target, TargetLog.find(tuning.log, target), tuning.sizes)
            fused = applied.module
        executable = finish(fused, target)
    calls = library_calls(fused)
    return CompiledModel(executable, signature, lowered.kernels, applied, calls)


def library_calls(module: Any) -> int:
    """How many calls of a library's products a Relax module makes."""
    found = 0

    def visit(node: Any) -> None:
        nonlocal found
        is_call = isinstance(node, tvm.ir.Call)
        if is_call and getattr(node.op, "name", "") == "relax.call_dps_packed":
            found += node.args[0].global_symbol in (LINEAR, *LINEAR_GELU.values())

    relax.analysis.post_order_visit(module[ENTRY], visit)
    return found


def fused_kernels(module: Module, target: Any) -> Any:
    """The Relax module of a model with its kernels fused and not yet scheduled: what is tuned.

    Raises:
        LoweringRejectedError: operators that are not lowered.
        BuildFailedError: TVM failed on the lowered model.
    """
    lowered = to_relax(module, target.kind.name, architecture(target))
    with _as_build_failure(module.source, target):
        return fuse(lowered.module, target)


def architecture(target: Any) -> str:
    """The architecture of a GPU, such as ``sm_90``; empty for a CPU."""
    return str(target.attrs["arch"]) if target.kind.name == "cuda" else ""


@contextlib.contextmanager
def _as_build_failure(source: str, target: Any) -> Iterator[None]:
    """Raise what TVM, or nvcc, says as a :class:`BuildFailedError` of one line."""
    try:
        yield
    except DechaffError:
        raise
    except Exception as error:  # TVM raises RuntimeError, its own kinds, and what nvcc said
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise BuildFailedError(
            f"{source}: TVM could not compile the model for {target.kind.name}: "
            f"{lines[-1].strip() if lines else type(error).__name__}"
        ) from error


def fuse(relax_module: Any, target: Any) -> Any:
    """From Relax operators to fused kernels without a schedule."""
    transform = relax.transform
    passes = [
        transform.DeadCodeElimination(),  # of what a kernel for several nodes replaced
        relax.backend.DispatchSortScan(),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        _keep_size_vectors_apart,
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    with target:
        return tvm.transform.Sequential(passes)(relax_module)


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
def _keep_size_vectors_apart(module: Any, _: Any) -> Any:
    """Fuse no kernel that writes sizes: TVM renames the size it is given twice, and fails."""
    for variable, function in module.functions_items():
        if variable.name_hint.startswith("sizes"):
            module.update_func(variable, function.with_attr("op_pattern", OPAQUE))
    return module


def finish(fused: Any, target: Any) -> Any:
    """TVM's executable for fused kernels; those without a schedule get a default one."""
    with target:
        if target.kind.name == "cuda":
            load_tensor_intrinsics()
            fused = _bind_written_kernels(fused)
            # Fallback comes last: a kernel that no rule binds to threads does not compile.
            rules = [
                _WhereItApplies(dlight.gpu.Matmul()),
                dlight.gpu.GEMV(),
                dlight.gpu.Reduction(),
                dlight.gpu.GeneralReduction(),
                dlight.gpu.Fallback(),
            ]
            fused = dlight.ApplyDefaultSchedule(*rules)(fused)
        return tvm.compile(fused, target=target, relax_pipeline=_virtual_machine(target))


class _WhereItApplies(dlight.ScheduleRule):  # type: ignore[misc]
    """A rule that does not serve a kernel on which it fails: a later one does.

    The rule for products takes some convolutions for products, and ends in an error.
    """

    def __init__(self, rule: Any) -> None:
        self._rule = rule

    def apply(self, func: Any, target: Any, tunable: bool) -> Any:
        """The rule's schedule, or None."""
        try:
            return self._rule.apply(func, target, tunable)
        except Exception:  # TVM's schedule errors come in several types
            return None


def _bind_written_kernels(fused: Any) -> Any:
    """Bind the loops of kernels written in TIR to threads.

    The other rules would analyse them, and fail on writes to computed places.
    """
    plain = {
        variable: function
        for variable, function in fused.functions_items()
        if function.attrs is not None and WRITTEN in function.attrs
    }
    bound = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(tvm.IRModule(plain))
    for variable, function in bound.functions_items():
        fused.update_func(fused.get_global_var(variable.name_hint), function)
    return fused


def _virtual_machine(target: Any) -> Any:
    """From scheduled kernels to the virtual machine's code."""
    transform = relax.transform
    passes = [
        transform.RewriteDataflowReshape(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
        transform.StaticPlanBlockMemory(),
        transform.LowerAllocTensor(),
        transform.KillAfterLastUse(),
        transform.LowerRuntimeBuiltin(),
        transform.ComputePrimValue(),
        transform.VMShapeLower(),
        transform.AttachGlobalSymbol(),
    ]
    return tvm.transform.Sequential(passes)
