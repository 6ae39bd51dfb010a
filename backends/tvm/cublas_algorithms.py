"""The fastest of the algorithms that cuBLAS proposes for a product, chosen by measurement.

cuBLAS orders its proposals by a heuristic, and its callers take the first. On an H200 a later one
took 3 to 11 % less time for three of four products of BERT-base at 4,928 and 9,024 tokens. What
is measured is kept as long as the process, by the product's sizes. The functions and constants are
those of ``cublasLt.h``, from the library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

from .launch_timing import fastest, may_measure

if TYPE_CHECKING:
    import torch

_PROPOSALS = 8
_WORKSPACE_BYTES = 32 << 20
_ALIGNMENT = 256

_COMPUTE_FLOAT32, _FLOAT32 = 68, 0
_DATA_TYPES = {"torch.float16": 2, "torch.bfloat16": 14}
_EPILOGUE, _BIAS_POINTER, _EPILOGUE_BIAS = 7, 8, 4
_MAX_WORKSPACE = 1


class _Proposal(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace_bytes", ctypes.c_size_t),
        ("status", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_CHOSEN: dict[Any, _Proposal | None] = {}
"""What was chosen, by sizes and dtype of the product."""


def multiply(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor
) -> bool:
    """Write ``x weight + bias`` to y by an algorithm that was chosen, on the current stream.

    x: [T, K], weight: [K, N], bias: [N], y: [T, N], 16-bit floats, contiguous.

    Returns:
        Whether it was written: false where no algorithm was measured for such a product.
    """
    key = (*x.shape, weight.shape[1], x.dtype, bias is not None, x.device.index)
    if not may_measure() and key not in _CHOSEN:
        return False
    library = _library()
    tensors = [tensor for tensor in (x, weight, bias, y) if tensor is not None]
    if library is None or str(x.dtype) not in _DATA_TYPES:
        return False
    if any(tensor.data_ptr() % _ALIGNMENT for tensor in tensors):
        return False
    with _Call(library, x, weight, bias, y) as call:
        if key not in _CHOSEN:
            proposals = call.proposals()
            place = fastest([functools.partial(call.run, item) for item in proposals])
            _CHOSEN[key] = None if place is None else proposals[place]
        chosen = _CHOSEN[key]
        return chosen is not None and call.run(chosen)


@functools.cache
def _library() -> tuple[Any, Any] | None:
    """CuBLAS as torch has loaded it, and a handle; None without it."""
    import torch

    major = (torch.version.cuda or "").partition(".")[0]
    try:
        library = ctypes.CDLL(f"libcublasLt.so.{major}")
    except OSError:
        return None
    handle = ctypes.c_void_p()
    return (library, handle) if library.cublasLtCreate(ctypes.byref(handle)) == 0 else None


class _Call:
    """One product, described to cuBLAS: by columns it is ``y' = weight' x'``."""

    def __init__(
        self,
        library: tuple[Any, Any],
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        y: torch.Tensor,
    ) -> None:
        self._library, self._handle = library
        self._tensors = (weight, x, y)
        self._bias = bias
        self._type = _DATA_TYPES[str(x.dtype)]
        self._layouts: list[ctypes.c_void_p] = []
        self._description = ctypes.c_void_p()

    def __enter__(self) -> _Call:
        create = self._library.cublasLtMatmulDescCreate
        self._check(create(ctypes.byref(self._description), _COMPUTE_FLOAT32, _FLOAT32))
        if self._bias is not None:
            self._set(_EPILOGUE, ctypes.c_int32(_EPILOGUE_BIAS))
            self._set(_BIAS_POINTER, ctypes.c_void_p(self._bias.data_ptr()))
        for tensor in self._tensors:
            rows, columns = tensor.shape
            layout = ctypes.c_void_p()
            sizes = ctypes.c_uint64(columns), ctypes.c_uint64(rows), ctypes.c_int64(columns)
            self._layouts.append(layout)
            self._check(
                self._library.cublasLtMatrixLayoutCreate(ctypes.byref(layout), self._type, *sizes)
            )
        return self

    def __exit__(self, *_: object) -> None:
        for layout in self._layouts:
            self._library.cublasLtMatrixLayoutDestroy(layout)
        self._library.cublasLtMatmulDescDestroy(self._description)

    def proposals(self) -> list[_Proposal]:
        """The algorithms that cuBLAS proposes, in its order."""
        preference = ctypes.c_void_p()
        self._check(self._library.cublasLtMatmulPreferenceCreate(ctypes.byref(preference)))
        found, count = (_Proposal * _PROPOSALS)(), ctypes.c_int()
        most = ctypes.c_uint64(_WORKSPACE_BYTES)
        weight, x, y = self._layouts
        try:
            self._check(
                self._library.cublasLtMatmulPreferenceSetAttribute(
                    preference, _MAX_WORKSPACE, ctypes.byref(most), ctypes.sizeof(most)
                )
            )
            status = self._library.cublasLtMatmulAlgoGetHeuristic(
                self._handle, self._description, weight, x, y, y, preference,
                _PROPOSALS, found, ctypes.byref(count),
            )  # fmt: skip
        finally:
            self._library.cublasLtMatmulPreferenceDestroy(preference)
        return [found[i] for i in range(count.value)] if status == 0 else []

    def run(self, proposal: _Proposal) -> bool:
        """Launch the product on the current stream; false if cuBLAS refuses."""
        import torch

        device = self._tensors[0].device
        size = proposal.workspace_bytes
        workspace = torch.empty(size, dtype=torch.uint8, device=device) if size else None
        place = None if workspace is None else ctypes.c_void_p(workspace.data_ptr())
        weight, x, y = (ctypes.c_void_p(tensor.data_ptr()) for tensor in self._tensors)
        weight_layout, x_layout, y_layout = self._layouts
        one, zero = ctypes.c_float(1), ctypes.c_float(0)
        stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
        status = self._library.cublasLtMatmul(
            self._handle, self._description, ctypes.byref(one), weight, weight_layout,
            x, x_layout, ctypes.byref(zero), y, y_layout, y, y_layout,
            ctypes.byref(proposal.algorithm), place, ctypes.c_size_t(size), stream,
        )  # fmt: skip
        return bool(status == 0)

    def _set(self, attribute: int, value: Any) -> None:
        place, size = ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value))
        setter = self._library.cublasLtMatmulDescSetAttribute
        self._check(setter(self._description, attribute, place, size))

    def _check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(f"cuBLAS gives status {status}")
