"""Matrix products by a library, as functions that compiled code calls.

On a GPU the library is the vendor's, by way of torch; on a CPU it is the BLAS that numpy brings.
Compiled code names the functions and finds them when it runs, so that importing this module
registers them and loads torch at the first call only. On a GPU they run on the stream on which the
compiled code runs.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import tvm_ffi

from dechaff.ir import MissingPackageError

LINEAR = "dechaff.linear"
"""``(x, weight, [bias], y)``: ``y = x weight + bias``; x: [T, K], weight: [K, N], bias: [N]."""


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
    try:
        import torch
    except ImportError:
        raise MissingPackageError(
            "torch", "torch", "matrix products by the vendor's library"
        ) from None

    *bias, y = (torch.utils.dlpack.from_dlpack(item) for item in rest)
    left, right = torch.utils.dlpack.from_dlpack(x), torch.utils.dlpack.from_dlpack(weight)
    stream = tvm_ffi.get_raw_stream(tvm_ffi.device("cuda", left.device.index))
    own = torch.cuda.ExternalStream(stream, left.device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(own):
        if bias:
            torch.addmm(bias[0], left, right, out=y)
        else:
            torch.mm(left, right, out=y)
