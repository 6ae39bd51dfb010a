"""Dense layers with GELU on Hopper by CUTLASS, compiled once per machine.

cuBLAS has no epilogue for the GELU of the error function: after it a kernel of its own reads and
writes [T, N] once more. The source is ``kernels/cutlass_dense.cu``; CUTLASS comes with TVM's
package, and nvcc takes about a minute for it. A machine without the compiled library runs cuBLAS
and a GELU instead.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import pathlib
import subprocess
import warnings
from typing import TYPE_CHECKING, Any

import tvm

from dechaff.ir import cache_folder

from .installation import has_nvcc
from .kernels.activations import LARGEST_SQUARE, POLYNOMIALS
from .launch_timing import fastest, may_measure

if TYPE_CHECKING:
    import torch

_SOURCE = pathlib.Path(__file__).parent / "kernels" / "cutlass_dense.cu"
_ELEMENTS = {"float16": "cutlass::half_t", "bfloat16": "cutlass::bfloat16_t"}
_TILES = ("64x128", "64x256", "128x128")

_FEW_TOKENS = 512
"""Up to here the small tile makes enough thread blocks; above it a larger one is faster."""

_ALIGNMENT = 16

_CHOSEN: dict[Any, str | None] = {}
"""The fastest tile, by sizes, dtype and activation, as measured in this process."""


@functools.cache
def compile_library(dtype: str, activation: str) -> pathlib.Path | None:
    """The compiled library for a dtype and an activation; it is kept in the folder for caches.

    Args:
        dtype: ``float16`` or ``bfloat16``.
        activation: ``gelu`` or ``gelu_tanh``.

    Returns:
        Its path; None where nvcc or CUTLASS is missing, and, with a warning, where nvcc fails.
    """
    path = _place(dtype, activation)
    if path.exists():
        return path
    headers = pathlib.Path(tvm.__file__).parent / "3rdparty" / "cutlass" / "include"
    if not has_nvcc() or not (headers / "cutlass" / "cutlass.h").exists():
        return None
    names = ("P0", "P1", "P2", "P3", "LARGEST_SQUARE")
    numbers = (*POLYNOMIALS[activation], LARGEST_SQUARE[activation])
    constants = [f"-D{name}={number!r}f" for name, number in zip(names, numbers, strict=True)]
    staged = path.with_suffix(f".{os.getpid()}")
    command: list[str | os.PathLike[str]] = ["nvcc", "-std=c++17", "-O3", "-DNDEBUG", "-I", headers]
    command += ["--expt-relaxed-constexpr"]
    command += ["-gencode", "arch=compute_90a,code=sm_90a", f"-DELEMENT={_ELEMENTS[dtype]}"]
    command += [*constants, "-shared", "-Xcompiler", "-fPIC", "-o", staged, _SOURCE]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, capture_output=True, text=True)
        staged.replace(path)
    except (OSError, subprocess.CalledProcessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        warnings.warn(
            f"no fused GELU: nvcc could not compile CUTLASS: {said[-1] if said else error}",
            stacklevel=2,
        )
        return None
    return path


def _place(dtype: str, activation: str) -> pathlib.Path:
    text = _SOURCE.read_bytes() + f"{tvm.__version__} {dtype} {activation}".encode()
    return cache_folder() / "kernels" / f"dense-{hashlib.sha256(text).hexdigest()[:16]}.so"


def dense_gelu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, y: torch.Tensor, activation: str
) -> bool:
    """Write ``gelu(x weight + bias)`` to y on the current stream.

    x: [T, K], weight: [K, N], bias: [N], y: [T, N], 16-bit floats, contiguous; K and N are
    multiples of 8.

    Returns:
        Whether it was written: false where the library has not been compiled, or refuses.
    """
    import torch

    dtype = str(x.dtype).removeprefix("torch.")
    library = _library(dtype, activation, torch.cuda.get_device_capability(x.device))
    if library is None or any(item.data_ptr() % _ALIGNMENT for item in (x, weight, bias, y)):
        return False
    (tokens, inputs), outputs = x.shape, weight.shape[1]
    pointers = [ctypes.c_void_p(item.data_ptr()) for item in (x, weight, bias, y)]
    multiprocessors = torch.cuda.get_device_properties(x.device).multi_processor_count

    def launch(tile: str) -> bool:
        stream = ctypes.c_void_p(torch.cuda.current_stream(x.device).cuda_stream)
        function = getattr(library, f"dense_{tile}")
        return bool(function(*pointers, tokens, outputs, inputs, multiprocessors, stream) == 0)

    key = (tokens, inputs, outputs, dtype, activation, x.device.index)
    if key not in _CHOSEN and may_measure():
        place = fastest([functools.partial(launch, tile) for tile in _TILES])
        _CHOSEN[key] = None if place is None else _TILES[place]
    tile = _CHOSEN.get(key, _TILES[0] if tokens <= _FEW_TOKENS else _TILES[1])
    return tile is not None and launch(tile)


@functools.cache
def _library(dtype: str, activation: str, capability: tuple[int, int]) -> Any:
    """The library, if it has been compiled on this machine and the GPU can run it."""
    if capability != (9, 0) or dtype not in _ELEMENTS:
        return None
    path = _place(dtype, activation)
    try:
        return ctypes.CDLL(os.fspath(path)) if path.exists() else None
    except OSError:
        return None
