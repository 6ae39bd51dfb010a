"""Runs the CUDA source that TVM generated for a kernel on the CPU, thread by thread."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

_HEADER = Path(__file__).with_name("cuda_emulation.h")
_KERNEL = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\) \{'
)
_SHARED = re.compile(r"extern __shared__ [^;]*?(\w+) (\w+)\[\];")

_PRODUCT = re.compile(r"dechaff_wgmma_n(\d+)_([rs])(\d+)_(b?f16)\(")

Arguments = Mapping[str, npt.NDArray[np.generic] | int]


def reason_it_cannot_run() -> str | None:
    """Why kernels cannot be emulated here, or None."""
    return None if shutil.which("g++") else "no g++ to compile the emulated kernel"


class EmulatedKernel:
    """One kernel, callable with arrays by the names of its buffers.

    Args:
        source: CUDA source of a module that holds one kernel.
    """

    def __init__(self, source: str) -> None:
        found = _KERNEL.search(source)
        assert found is not None, "the source holds no kernel"
        self.parameters = [p.split()[-1].strip("*") for p in found[2].split(",")]
        types = [p.rsplit(" ", 1)[0].replace("__restrict__", "") for p in found[2].split(",")]
        text = _SHARED.sub(r"\1* \2 = (\1*)emulated_shared;", source[found.start() :])
        text = re.sub(r"__shared__ alignas\(\d+\)", "static", text)
        products = "".join(_product_definition(*p) for p in sorted(set(_PRODUCT.findall(text))))
        arguments = ", ".join(
            f"*({t.strip()}*)emulated_arguments[{i}]" for i, t in enumerate(types)
        )
        code = (
            f'#include "{_HEADER}"\n{products}{text}\n'
            "static void** emulated_arguments;\n"
            f"static void call() {{ {found[1]}({arguments}); }}\n"
            'extern "C" void run(const int* grid, const int* block, void** arguments) {\n'
            "  emulated_arguments = arguments;\n  run_grid(grid, block, call);\n}\n"
        )
        self._library = ctypes.CDLL(str(_compiled(code)))

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Arguments) -> None:
        """Launch over a grid (x, y, z) of blocks (x, y, z); arrays are written in place."""
        values: list[ctypes.c_void_p | ctypes.c_int64] = []
        for name in self.parameters:
            value = arguments[name.removesuffix("_ptr")]
            if isinstance(value, np.ndarray):
                values.append(ctypes.c_void_p(value.ctypes.data))
            else:
                values.append(ctypes.c_int64(value))
        pointers = (ctypes.c_void_p * len(values))(
            *[ctypes.cast(ctypes.pointer(v), ctypes.c_void_p) for v in values]
        )
        self._library.run((ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*block), pointers)


def _product_definition(columns: str, left: str, step: str, kind: str) -> str:
    """The device function of one form of warpgroup product."""
    left_type = "const unsigned*" if left == "r" else "unsigned"
    return (
        f"inline void dechaff_wgmma_n{columns}_{left}{step}_{kind}(float* c, "
        f"{left_type} left, unsigned right, int accumulates) {{\n"
        f"  start_product(c, left, right, {step}, {columns}, accumulates, from_{kind});\n}}\n"
    )


def _compiled(code: str) -> Path:
    """The shared library of this code, compiled once per machine."""
    digest = hashlib.sha256((code + _HEADER.read_text()).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "dechaff-emulated-kernels"
    folder.mkdir(exist_ok=True)
    library = folder / f"{digest}.so"
    if not library.exists():
        source = folder / f"{digest}.cpp"
        source.write_text(code)
        staged = folder / f"{digest}.partial"
        command = [
            "g++",
            "-std=c++17",
            "-O1",
            "-w",
            "-shared",
            "-fPIC",
            "-o",
            str(staged),
            str(source),
        ]
        subprocess.run(command, check=True)
        staged.rename(library)
    return library
