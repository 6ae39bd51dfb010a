"""Names of models and data by their contents, under which what was found of them is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from dechaff.ir import Module, canonical_lines

from .arrays import to_numpy


def module_digest(module: Module) -> str:
    """Names a module: its operators and the contents of its weights."""
    state = hashlib.sha256()
    for line in canonical_lines(module):
        state.update(line.encode())
    for name, value in sorted(module.graph.initializers.items()):
        state.update(name.encode())
        if value.const_value is not None:
            state.update(value.const_value.numpy().tobytes())
    return state.hexdigest()


def batches_digest(batches: Iterable[Mapping[str, Any]]) -> str:
    """Names batches: the same arrays in the same order."""
    state = hashlib.sha256()
    for batch in batches:
        add_to_digest(state, batch)
    return state.hexdigest()


def add_to_digest(state: hashlib._Hash, batch: Mapping[str, Any]) -> None:
    """Add names and contents of a batch, in the order of the names."""
    for name, value in sorted(batch.items()):
        state.update(name.encode())
        state.update(_content(value))


def _content(value: Any) -> bytes:
    try:
        array = to_numpy(value)
        return str(array.dtype).encode() + str(array.shape).encode() + array.tobytes()
    except Exception:
        return repr(value).encode()
