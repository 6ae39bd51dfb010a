"""Which processor this is: measured times hold for it alone."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

_INTEGER_INSTRUCTIONS = frozenset(
    {"amx_int8", "asimddp", "avx2", "avx512_vnni", "avx512bw", "avx_vnni", "avx_vnni_int8", "i8mm"}
)


def machine_name() -> str:
    """The processor's model, with a digest of its instruction sets where the system lists them.

    Virtual machines give different processors one name; their instruction sets tell them apart.
    """
    described = _described()
    model = described.get("model name") or platform.processor() or platform.machine()
    flags = described.get("flags") or described.get("Features")
    return model if flags is None else f"{model} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def _described() -> dict[str, str]:
    """What the system says of the first processor."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def products_saturate() -> bool:
    """Whether sums of products of unsigned and signed 8-bit integers may saturate.

    Before VNNI, x86 adds two such products in 16 bits, which 255 * 127 * 2 exceeds; with weights of
    7 bits it does not. An x86 processor whose flags are unknown is taken for such a one.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    return not {"avx512_vnni", "avx_vnni"} & instruction_sets()


def instruction_sets() -> set[str]:
    """The processor's instructions for products of integers, as the system names them."""
    described = _described()
    flags = described.get("flags") or described.get("Features") or ""
    return set(flags.split()) & _INTEGER_INSTRUCTIONS
