"""Matrix products by a library, as functions that compiled code calls.

On a GPU the library is the vendor's, by way of torch; on a CPU it is the BLAS that numpy brings.
Compiled code names the functions and finds them when it runs, so that importing this module
registers them and loads torch at the first call only. On a GPU they run on the stream on which the
compiled code runs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import tvm_ffi

from dechaff.ir import MissingPackageError

from . import cublas_algorithms, cutlass_products

LINEAR = "dechaff.linear"
"""``(x, weight, [bias], y)``: ``y = x weight + bias``; x: [T, K], weight: [K, N], bias: [N]."""

LINEAR_GELU = {"gelu": "dechaff.linear_gelu", "gelu_tanh": "dechaff.linear_gelu_tanh"}
"""``(x, weight, bias, y)``: ``y = gelu(x weight + bias)`` on a GPU, by activation."""


def library_name(kind: str) -> str | None:
    """The package whose products code for this kind of target can call; None if it is missing."""
    package = {"cuda": "torch", "llvm": "numpy"}[kind]
    return package if importlib.util.find_spec(package) is not None else None


@tvm_ffi.register_global_func(LINEAR, override=True)  # type: ignore[untyped-decorator]
def linear(x: Any, weight: Any, *rest: Any) -> None:
    """Write ``x weight + bias`` to the last argument."""
    if x.device.type == "cpu":
        _by_numpy(x, weight, *rest)
    else:
        _by_torch(x, weight, *rest)


def _by_numpy(x: Any, weight: Any, *rest: Any) -> None:
    *bias, y = (np.from_dlpack(item) for item in rest)
    np.matmul(np.from_dlpack(x), np.from_dlpack(weight), out=y)
    if bias:
        np.add(y, bias[0], out=y)


def _by_torch(x: Any, weight: Any, *rest: Any) -> None:
    with _on_stream_of_code(x, weight, *rest) as (left, right, *bias, y):
        if cublas_algorithms.multiply(left, right, bias[0] if bias else None, y):
            return
        import torch

        if bias:
            torch.addmm(bias[0], left, right, out=y)
        else:
            torch.mm(left, right, out=y)


def _linear_gelu(activation: str, x: Any, weight: Any, bias: Any, y: Any) -> None:
    """By CUTLASS in one pass; where it was not compiled, a product and an activation."""
    with _on_stream_of_code(x, weight, bias, y) as (left, right, added, result):
        if cutlass_products.dense_gelu(left, right, added, result, activation):
            return
        import torch

        if not cublas_algorithms.multiply(left, right, added, result):
            torch.addmm(added, left, right, out=result)
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        result.copy_(torch.nn.functional.gelu(result, approximate=approximate))


for _activation, _name in LINEAR_GELU.items():
    tvm_ffi.register_global_func(_name, functools.partial(_linear_gelu, _activation), override=True)


@contextlib.contextmanager
def _on_stream_of_code(*tensors: Any) -> Iterator[list[Any]]:
    """The tensors as torch's, on the stream on which the compiled code runs.

    Raises:
        MissingPackageError: torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingPackageError(
            "torch", "torch", "matrix products by the vendor's library"
        ) from None

    own = [torch.utils.dlpack.from_dlpack(tensor) for tensor in tensors]
    device = own[0].device
    stream = tvm_ffi.get_raw_stream(tvm_ffi.device("cuda", device.index))
    with torch.cuda.stream(torch.cuda.ExternalStream(stream, device)):  # type: ignore[no-untyped-call]
        yield own
