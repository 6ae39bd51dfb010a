"""The machine and the versions that figures hold for, without its name."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform

import dechaff
from dechaff.backends.onnxruntime.threads import usable_cores

_VERSIONED = ("torch", "transformers", "onnxruntime", "onnxscript", "openvino", "numpy")
_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "asimd")


def versions() -> dict[str, str]:
    """Versions of the packages that take part; those not installed are left out."""
    found = {"dechaff": dechaff.__version__, "Python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_machine() -> dict[str, str]:
    """Processor, cores, caches, instruction sets, memory and system."""
    cpu = _processor()
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        "processor": cpu.get("model name", platform.processor() or platform.machine()),
        "cores": f"{usable_cores()} used, {os.cpu_count()} seen",
        "caches": ", ".join(_caches()) or "unknown",
        "instruction sets": " ".join(flag for flag in _FLAGS if flag in flags) or "unknown",
        "memory": f"{_memory_bytes() / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> dict[str, str]:
    """Fields of the first processor; empty where the system does not tell."""
    try:
        first = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> list[str]:
    found = []
    for folder in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text().strip() for name in ("level", "type", "size")
        )
        letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
        found.append(f"L{level}{letter} {size}")
    return found


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
