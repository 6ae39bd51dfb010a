"""Matrix products of the vendor's library, by way of torch, as functions that compiled code calls.

Compiled code names them and finds them when it runs, so that importing this module registers them
and loads torch at the first call only. They run on the stream on which the compiled code runs.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi

from dechaff.ir import MissingPackageError

LINEAR = "dechaff.linear"
"""``(x, weight, [bias], y)``: ``y = x weight + bias``; x: [T, K], weight: [K, N], bias: [N]."""


@tvm_ffi.register_global_func(LINEAR, override=True)  # type: ignore[untyped-decorator]
def linear(x: Any, weight: Any, *rest: Any) -> None:
    """Write ``x weight + bias`` to the last argument."""
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
