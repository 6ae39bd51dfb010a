"""What a trace says of a weight: its type, a digest and statistics; never its content."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import value_type_text

_SHOWN_ELEMENTS = 8
_CHUNKS, _CHUNK_ELEMENTS = 16, 4096
_MAX_LAZY_ELEMENTS = 65_536
"""A lazy tensor above this is computed when the model is saved, not for a trace."""


def weight_data(value: ir.Value, tensor: ir.TensorProtocol) -> dict[str, Any]:
    """Describe an initializer: ``type``, and what is cheap to know of its content.

    Large tensors are looked at in evenly spaced chunks, so that no weight is read as a whole.
    """
    described: dict[str, Any] = {"type": value_type_text(value), "parameters": int(tensor.size)}
    if isinstance(tensor, ir.LazyTensor) and tensor.size > _MAX_LAZY_ELEMENTS:
        return described
    array = _readable(tensor)
    if array is None:
        return described
    sample = _sample(array)
    digest = hashlib.blake2b(sample.tobytes(), digest_size=8)
    digest.update(described["type"].encode())
    described["digest"] = digest.hexdigest()
    if sample.size < array.size:
        described["sampled"] = int(sample.size)
    return described | _statistics(sample)


def _readable(tensor: ir.TensorProtocol) -> np.ndarray[Any, Any] | None:
    """The tensor as an array, or None where it holds no numbers."""
    if tensor.dtype is ir.DataType.STRING:
        return None
    try:
        return tensor.numpy()
    except Exception:  # damaged weights are reported by who needs them, not by the trace
        return None


def _sample(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """All elements of a small array; evenly spaced chunks of a large one. A flat array."""
    if array.size <= _CHUNKS * _CHUNK_ELEMENTS or not array.flags.c_contiguous:
        return np.ravel(array)[:: max(1, array.size // (_CHUNKS * _CHUNK_ELEMENTS))]
    flat = array.reshape(-1)
    starts = np.linspace(0, flat.size - _CHUNK_ELEMENTS, _CHUNKS).astype(int)
    return np.concatenate([flat[start : start + _CHUNK_ELEMENTS] for start in starts])


def _statistics(sample: np.ndarray[Any, Any]) -> dict[str, Any]:
    if sample.size == 0:
        return {}
    try:
        numbers = sample.astype(np.float64)
    except (TypeError, ValueError):
        return {}
    found: dict[str, Any] = {}
    if sample.size <= _SHOWN_ELEMENTS:
        found["values"] = str(sample.tolist())
    with np.errstate(all="ignore"):
        figures = {
            "min": numbers.min(),
            "max": numbers.max(),
            "mean": numbers.mean(),
            "std": numbers.std(),
            "zeros": (numbers == 0).mean(),
        }
    return found | {
        name: float(f"{figure:.6g}") for name, figure in figures.items() if math.isfinite(figure)
    }
