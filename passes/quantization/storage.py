"""Where new weights lie until the model is saved: small ones in memory, large ones in a file."""

from __future__ import annotations

import tempfile

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_IN_MEMORY_BYTES = 8 << 20
"""A model of some hundred million parameters stays in memory; one of a billion goes to disk."""


def packed_int4(integers: npt.NDArray[np.int8]) -> ir.TensorProtocol:
    """A tensor of int4, two to the byte, from int8 within -8 .. 7."""
    flat = integers.reshape(-1)
    if flat.size % 2:
        flat = np.append(flat, np.int8(0))
    pairs = flat.view(np.uint8).reshape(-1, 2)
    packed = (pairs[:, 0] & 0x0F) | ((pairs[:, 1] & 0x0F) << 4)
    stored = _stored(packed)
    return ir.PackedTensor(stored, ir.DataType.INT4, shape=ir.Shape(integers.shape))


def plain(array: npt.NDArray[np.generic]) -> ir.TensorProtocol:
    """A tensor of the array's own type."""
    return ir.tensor(_stored(array))


def _stored(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The array, mapped to a file without a name if it is large; the file goes with the array."""
    if array.nbytes < _IN_MEMORY_BYTES:
        return np.ascontiguousarray(array)
    with tempfile.TemporaryFile(prefix="dechaff-") as file:
        np.ascontiguousarray(array).tofile(file)
        file.flush()
        mapped: npt.NDArray[np.generic] = np.memmap(file, array.dtype, "r", shape=array.shape)
    return mapped
