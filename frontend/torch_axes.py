"""Names for the axes of example tensors, and example tensors whose sizes keep those axes apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence

import torch

Axis = tuple[int, int]
"""An axis of an input: the position of its tensor among all input leaves, and the axis in it."""

BATCH = "batch"
SEQUENCE = "sequence"
_SMALLEST_EXAMPLE = 3


@dataclasses.dataclass(frozen=True)
class InputSignature:
    """What naming an input's axes needs to know of it.

    Attributes:
        leaf: its position among all input leaves.
        name: name of the argument it belongs to.
        sizes: its sizes; equal sizes are equal objects (symbols do as well as integers).
        dtype: its element type.
    """

    leaf: int
    name: str
    sizes: tuple[Hashable, ...]
    dtype: torch.dtype

    @property
    def has_positions(self) -> bool:
        """Whether axes after the first count positions: ids, masks, hidden states, no features."""
        return not self.dtype.is_floating_point or "mask" in self.name

    @property
    def family(self) -> str:
        """Inputs of one family share their sequence length."""
        return "decoder_" if self.name.startswith("decoder_") else ""


def name_axes(inputs: Sequence[InputSignature]) -> dict[Axis, str]:
    """Decide which axes vary, and which of them always have the same size.

    Axes of the same name share one symbol. That ``input_ids`` and ``attention_mask`` do so matters:
    otherwise nothing could show that a mask entry belongs to a token.
    """
    names: dict[Axis, str] = {}
    ranked = [signature for signature in inputs if signature.sizes]
    batch = ranked[0].sizes[0] if ranked else None
    lengths = _sequence_lengths(ranked)
    for signature in ranked:
        length = lengths.get(signature.family)
        sequence = f"{signature.family}{SEQUENCE}"
        for axis, size in enumerate(signature.sizes):
            if axis == 0 and size == batch:
                names[signature.leaf, axis] = BATCH
            elif size == length and _may_be_sequence(signature, axis):
                names[signature.leaf, axis] = sequence
            elif size != 1 and signature.has_positions and axis < 2:
                names[signature.leaf, axis] = f"{signature.name}_dim_{axis}"
    return names


def _sequence_lengths(inputs: Sequence[InputSignature]) -> dict[str, Hashable]:
    """The size of axis 1 of the first input that has positions there, by family."""
    lengths: dict[str, Hashable] = {}
    for by_ids in (True, False):
        for signature in inputs:
            fits = signature.has_positions if by_ids else len(signature.sizes) == 3
            if fits and len(signature.sizes) >= 2 and signature.sizes[1] != 1:
                lengths.setdefault(signature.family, signature.sizes[1])
    for signature in inputs:
        if len(signature.sizes) >= 2:  # an example of a single token has nothing better
            lengths.setdefault(signature.family, signature.sizes[1])
    return lengths


def _may_be_sequence(signature: InputSignature, axis: int) -> bool:
    """Features never count: their size may equal a sequence length only by accident."""
    if signature.has_positions:
        return True
    return len(signature.sizes) == 3 and axis == 1


def distinct_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """A size for each name, no two alike and none below 2: torch takes 0 and 1 for constants.

    Sizes of the example are changed only where they break these rules.
    """
    distinct: dict[str, int] = {}
    # The batch goes last: it can take any size, while a sequence has its longest.
    for name in sorted(sizes, key=lambda name: (name == BATCH, name)):
        size = sizes[name] if sizes[name] >= 2 else _SMALLEST_EXAMPLE
        while size in distinct.values():
            size += 1
        distinct[name] = size
    return distinct


def resize(tensor: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Repeat or drop entries along each axis until the tensor has the given sizes.

    Values stay values of the example, so that ids stay within their vocabulary.
    """
    for axis, size in enumerate(sizes):
        old = tensor.shape[axis]
        if old == size:
            continue
        if old == 0:
            return torch.zeros(list(sizes), dtype=tensor.dtype, device=tensor.device)
        places = torch.arange(size, device=tensor.device) % old
        tensor = tensor.index_select(axis, places)
    return tensor


def finite(bound: object) -> int | None:
    """An upper bound as an integer, None where there is no bound.

    torch writes "no bound" as an infinity of its own or as the largest integer.
    """
    try:
        value = int(bound)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return None if value >= 2**62 or not math.isfinite(value) else value
