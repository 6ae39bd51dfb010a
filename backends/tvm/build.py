"""From Relax to machine code: the passes of TVM that run, in order, for each kind of target."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.s_tir import dlight

from dechaff.ir import DechaffError, Module

from .compiled_model import CompiledModel
from .installation import require_nvcc
from .product_choice import ProductChoice
from .relax_module import to_relax
from .signature import signature_of
from .signature_function import add_signature


class BuildFailedError(DechaffError):
    """TVM, or the compiler behind it, failed on the lowered model."""


def compile_module(
    module: Module, target: Any, products: ProductChoice | None = None
) -> CompiledModel:
    """Compile a module for a target of TVM; dialect operators may be in it.

    Args:
        module: the optimized module, not lowered for another backend. It is not changed.
        target: what :func:`~.targets.resolve_target` gave.
        products: who computes matrix products on a GPU.

    Raises:
        UsageError: the target needs a compiler that is not installed.
        LoweringRejectedError: operators that are not lowered.
        BuildFailedError: TVM failed on the lowered model.
    """
    kind = target.kind.name
    if kind == "cuda":
        require_nvcc()
    lowered = to_relax(module, kind, _architecture(target), products)
    signature = signature_of(module, str(target))
    add_signature(lowered.module, signature)
    executable = build(lowered.module, target, module.source)
    return CompiledModel(executable, signature, lowered.kernels)


def _architecture(target: Any) -> str:
    return str(target.attrs["arch"]) if target.kind.name == "cuda" else ""


def build(relax_module: Any, target: Any, source: str) -> Any:
    """TVM's executable for a Relax module.

    Raises:
        BuildFailedError: TVM, or nvcc, failed; the message is its last line.
    """
    try:
        with target:
            prepared = tvm.transform.Sequential(_passes(target))(relax_module)
            return tvm.compile(prepared, target=target, relax_pipeline=_finish(target))
    except Exception as error:  # TVM raises RuntimeError, its own kinds, and what nvcc said
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise BuildFailedError(
            f"{source}: TVM could not compile the model for {target.kind.name}: "
            f"{lines[-1].strip() if lines else type(error).__name__}"
        ) from error


def _passes(target: Any) -> list[Any]:
    """From Relax operators to scheduled kernels."""
    transform = relax.transform
    passes = [
        relax.backend.DispatchSortScan(),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    if target.kind.name == "cuda":
        # Fallback comes last: a kernel that no rule binds to threads does not compile.
        rules = [
            dlight.gpu.Matmul(),
            dlight.gpu.GEMV(),
            dlight.gpu.Reduction(),
            dlight.gpu.GeneralReduction(),
            dlight.gpu.Fallback(),
        ]
        passes.append(dlight.ApplyDefaultSchedule(*rules))
    return passes


def _finish(target: Any) -> Any:
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
