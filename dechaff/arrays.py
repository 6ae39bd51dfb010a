"""Arrays at the border: torch tensors to numpy and back without importing torch, dtype checks."""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import InputRejectedError, Module, UsageError, dtype_name, value_type_text

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


def is_torch_tensor(value: object) -> bool:
    """Whether the value is a torch tensor; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(value: Any) -> Array:
    """A torch tensor, array or nested list as a numpy array (shared memory where possible).

    Raises:
        InputRejectedError: the value has no numpy form.
    """
    try:
        if is_torch_tensor(value):
            return np.asarray(value.detach().cpu().numpy())
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputRejectedError(f"an input is not an array: {error}") from error
    if array.dtype == object:
        raise InputRejectedError(
            f"an input is not an array: got {type(value).__name__}; "
            "expected a numpy array, a torch tensor or nested lists of equal length"
        )
    return array


def to_torch(array: Array) -> Any:
    """A torch tensor over the array's memory; only called when the caller gave torch tensors."""
    import torch  # the caller has it: this lookup loads nothing

    return torch.from_numpy(array)


def runtime_inputs(module: Module) -> list[ir.Value]:
    """The graph inputs a caller must give: those without a default."""
    initializers = module.graph.initializers
    return [value for value in module.graph.inputs if value.name not in initializers]


def check_inputs(module: Module, inputs: Mapping[str, Any]) -> Arrays:
    """The inputs as arrays that fit the graph, checked before the runtime sees them.

    Integer and bool arrays are cast where no value changes, as are float arrays to a wider type.

    Args:
        module: the model.
        inputs: an array, torch tensor or nested list per graph input, by name.

    Raises:
        InputRejectedError: an unknown or missing name, a wrong rank, size or dtype.
    """
    known = {value.name or "": value for value in module.graph.inputs}
    needed = [value.name or "" for value in runtime_inputs(module)]
    unknown = [str(name) for name in inputs if name not in known]
    missing = [name for name in needed if name not in inputs]
    if unknown or missing:
        parts = [f"unknown input {', '.join(map(repr, unknown))}"] if unknown else []
        parts += [f"missing input {', '.join(map(repr, missing))}"] if missing else []
        raise InputRejectedError(
            f"{module.source}: {'; '.join(parts)}; the model takes {signature_text(module)}"
        )
    arrays = {name: _fit(module, known[name], to_numpy(item)) for name, item in inputs.items()}
    _check_symbols(module, arrays)
    return arrays


def signature_text(module: Module) -> str:
    """The graph inputs on one line: ``input_ids: int64[B,S], attention_mask: int64[B,S]``."""
    return ", ".join(f"{value.name}: {value_type_text(value)}" for value in runtime_inputs(module))


def _fit(module: Module, value: ir.Value, array: Array) -> Array:
    place = f"{module.source}: input {value.name!r}: expected {value_type_text(value)}"
    if value.shape is not None:
        if len(value.shape) != array.ndim:
            raise InputRejectedError(f"{place}, got rank {array.ndim} (shape {array.shape})")
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int) and dim != array.shape[axis]:
                raise InputRejectedError(
                    f"{place}, got size {array.shape[axis]} at axis {axis} (shape {array.shape})"
                )
    if value.dtype is None or value.dtype is ir.DataType.STRING:
        return array
    wanted = value.dtype.numpy()
    if array.dtype == wanted:
        return array
    cast = _lossless_cast(array, wanted)
    if cast is None:
        given = (
            dtype_name(ir.DataType.from_numpy(array.dtype))
            if array.dtype.kind in "biuf"
            else array.dtype
        )
        raise InputRejectedError(f"{place}, got dtype {given}; convert it to {wanted}")
    return cast


def _lossless_cast(array: Array, wanted: np.dtype[Any]) -> Array | None:
    """The array in another dtype if every value survives, else None."""
    if array.dtype.kind in "biu" and wanted.kind in "biu":
        cast = array.astype(wanted)
        return cast if np.array_equal(cast.astype(array.dtype), array) else None
    if array.dtype.kind in "bf" and wanted.kind == "f" and array.itemsize <= wanted.itemsize:
        return array.astype(wanted)
    return None


def _check_symbols(module: Module, arrays: Arrays) -> None:
    """A symbolic size is one number per call: ``B`` of one input is ``B`` of all."""
    seen: dict[str, tuple[int, str]] = {}
    for value in module.graph.inputs:
        array = arrays.get(value.name or "")
        if array is None or value.shape is None:
            continue
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int) or dim.value is None or not dim.value.isidentifier():
                continue
            size, first = seen.setdefault(dim.value, (array.shape[axis], value.name or ""))
            if size != array.shape[axis]:
                raise InputRejectedError(
                    f"{module.source}: input {value.name!r}: expected {value_type_text(value)} "
                    f"with {dim.value} = {size} as in {first!r}, got shape {array.shape}"
                )


def bind_positional(module: Module, args: Sequence[Any]) -> dict[str, Any]:
    """Positional arguments by graph input name, in graph order.

    Raises:
        InputRejectedError: more arguments than inputs.
    """
    names = [value.name or "" for value in runtime_inputs(module)]
    if len(args) > len(names):
        raise InputRejectedError(
            f"{module.source}: got {len(args)} inputs; the model takes {signature_text(module)}"
        )
    return dict(zip(names, args, strict=False))


_UNREADABLE = (OSError, ValueError, AttributeError, EOFError, NotImplementedError, RuntimeError)


def read_arrays(path: str, option: str) -> Arrays:
    """The arrays of an ``.npz`` file, by name.

    Raises:
        UsageError: the file cannot be read or holds something else; ``option`` named it.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (*_UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{option} {path}: not a readable .npz file of arrays: {error}") from error
