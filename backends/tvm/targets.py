"""Which machine code is generated for: what users write, and TVM's target for it."""

from __future__ import annotations

import json
import re
from typing import Any

import psutil
import tvm

from dechaff.ir import UsageError

DEFAULT_CUDA_ARCH = "sm_90"
"""What ``cuda`` means on a machine without a GPU."""

KINDS = ("llvm", "cuda")

_GPU_LIMITS: dict[str, int] = {
    "max_num_threads": 1024,
    "max_threads_per_block": 1024,
    "thread_warp_size": 32,
    "max_shared_memory_per_block": 49152,
    "registers_per_block": 65536,
}
"""What every GPU from sm_70 on gives; schedules and tuning ask for them."""


def resolve_target(text: str) -> Any:
    """TVM's target for ``cuda``, ``llvm``, a tag of TVM, or a target as JSON.

    A CUDA architecture that ends in a letter is written without it: TVM's schedules read ``sm_90a``
    as no architecture that they know, and then use no tensor cores.

    Raises:
        UsageError: there is no such target.
    """
    if text == "cuda":
        return _complete({"kind": "cuda", "arch": found_gpu_arch() or DEFAULT_CUDA_ARCH})
    if text == "llvm":
        return _complete({"kind": "llvm"})
    try:
        return _complete(_fields(text))
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"there is no target {_shortened(text)}: {first}; choose cpu, portable, cuda, llvm, a "
            "tag of TVM such as nvidia/nvidia-a100, or JSON such as "
            '\'{"kind": "cuda", "arch": "sm_80"}\''
        ) from error


def _fields(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("expected a JSON object")
        return fields
    named: dict[str, Any] = json.loads(str(tvm.target.Target(text)))
    return {key: value for key, value in named.items() if key not in ("keys", "tag")}


def _complete(fields: dict[str, Any]) -> Any:
    kind = str(fields.get("kind", ""))
    if kind not in KINDS:
        raise ValueError(
            f"code is generated for {' and '.join(KINDS)}, not for {kind or 'nothing'}"
        )
    if kind == "llvm":
        own = {"mcpu": str(tvm.target.codegen.llvm_get_system_cpu()), "num-cores": _cores()}
        fields = {**own, **fields}
    if kind == "cuda":
        arch = re.sub(r"(?<=\d)[a-z]$", "", str(fields.get("arch", DEFAULT_CUDA_ARCH)))
        if not re.fullmatch(r"sm_\d{2,3}", arch):
            raise ValueError(f"expected an architecture such as sm_90, got {arch!r}")
        fields = {**_GPU_LIMITS, **fields, "arch": arch}
        fields.setdefault("host", {"kind": "llvm"})
    return tvm.target.Target(fields)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _cores() -> int:
    """Physical cores of this machine; what tuning spreads work over."""
    return int(psutil.cpu_count(logical=False) or 1)


def found_gpu_arch() -> str | None:
    """The architecture of the GPU of this machine, such as ``sm_90``; None without one."""
    device = tvm.cuda(0)
    if not device.exist:
        return None
    version = str(device.compute_version)
    return "sm_" + version.replace(".", "")


def device_exists(target: Any) -> bool:
    """Whether this machine has a device of the target's kind."""
    return target.kind.name != "cuda" or found_gpu_arch() is not None
