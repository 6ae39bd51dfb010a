"""What values of a graph hold for the tokens of calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module

from .matching import is_op
from .padding.padding_mask import find_padding_mask, masked_attentions
from .pass_context import CalibrationData

Floats = np.ndarray[Any, Any]

_MOST_TOKENS = 1 << 13
_MOST_SEQUENCES = 1 << 11
"""Of how many sequences the one token that is read is looked at."""


def token_rows(
    module: Module,
    values: Sequence[ir.Value],
    calibration: CalibrationData,
    positions: Mapping[ir.Value, int] | None = None,
) -> Iterator[dict[ir.Value, Floats]]:
    """What values hold for tokens that are no padding: float32[tokens, width + 1], a one last.

    Args:
        module: the module whose values they are.
        values: of tokens, ``[B, S, width]``.
        calibration: inputs; some thousand tokens of them are looked at, batch by batch.
        positions: of values of which one position of each sequence is wanted alone, that position.
            They go on where there are tokens enough of the others, for some thousand sequences.
    """
    if not values:
        return
    alone = positions or {}
    whole = [value for value in values if value not in alone]
    found = find_padding_mask(masked_attentions([n for n in module.graph if is_op(n, "Attention")]))
    asked = _in_order(module, [*values, *([found.value] if found else [])])
    tokens = sequences = 0
    for arrays in calibration.walk(module).advance(asked):
        enough = tokens >= _MOST_TOKENS or not whole
        if enough and (sequences >= _MOST_SEQUENCES or not alone):
            return  # the walk is not gone on with
        valid = None
        if found is not None:
            mask = arrays[found.value.name or ""]
            valid = mask == 0 if found.zero_is_valid else mask != 0
        rows = {v: _with_one(arrays[v.name or ""][:, place]) for v, place in alone.items()}
        if not enough:
            rows.update((value, _rows(arrays[value.name or ""], valid)) for value in whole)
            tokens += len(rows[whole[0]])
        sequences += len(arrays[values[0].name or ""])
        yield rows


def _in_order(module: Module, values: Sequence[ir.Value]) -> list[ir.Value]:
    """Graph inputs, then the others as their nodes stand."""
    place = {node: index for index, node in enumerate(module.graph)}
    producers = {value: value.producer() for value in values}

    def key(value: ir.Value) -> int:
        node = producers[value]
        return -1 if node is None else place[node]

    return sorted(dict.fromkeys(values), key=key)


def _rows(array: Floats, valid: Floats | None) -> Floats:
    fits = valid is not None and array.shape[: valid.ndim] == valid.shape
    return _with_one(array[valid] if fits else array.reshape(-1, array.shape[-1]))


def _with_one(tokens: Floats) -> Floats:
    """float32[tokens, width + 1], a one last."""
    ones = np.ones((len(tokens), 1), np.float32)
    return np.concatenate([tokens.astype(np.float32), ones], axis=1)
