"""Where the batch and sequence axes of a value lie, and what is left of its axes once packed."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from dechaff.ir import Dim, to_expression


class NotTokenWise(Exception):  # noqa: N818  (control flow, not an error)
    """An operation mixes positions, or cannot be shown not to; the reason is for the report."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Token axes of a value.

    Attributes:
        rank: number of axes of the padded value.
        batch_axis: the axis of the batch.
        sequence_axis: the axis of the sequence; equal to ``batch_axis`` where the two are merged
            into one axis of size ``B * S``.
        sequence_first: whether the merged axis counts ``s * B + b``, and not ``b * S + s``.
    """

    rank: int
    batch_axis: int = 0
    sequence_axis: int = 1
    sequence_first: bool = False

    @property
    def merged(self) -> bool:
        """Whether batch and sequence are one axis."""
        return self.batch_axis == self.sequence_axis

    @property
    def token_axes(self) -> frozenset[int]:
        """The axes that become the one token axis of the packed value."""
        return frozenset((self.batch_axis, self.sequence_axis))

    @property
    def feature_axes(self) -> list[int]:
        """All other axes, in order: axes 1, 2, ... of the packed value."""
        return [axis for axis in range(self.rank) if axis not in self.token_axes]

    @property
    def leads(self) -> bool:
        """Whether the token axes are the first ones, batch before sequence."""
        return self.batch_axis == 0 and self.sequence_axis in (0, 1)

    @property
    def apart(self) -> Layout:
        """Of merged tokens: the layout once their axis is two axes again."""
        batch, sequence = (1, 0) if self.sequence_first else (0, 1)
        return Layout(self.rank + 1, batch, sequence)

    def placed(self, rank: int, batch_axis: int, sequence_axis: int) -> Layout:
        """The layout with its axes elsewhere."""
        return dataclasses.replace(
            self, rank=rank, batch_axis=batch_axis, sequence_axis=sequence_axis
        )

    def packed_axis(self, axis: int) -> int:
        """The axis of the packed value for a feature axis (which may count from the end)."""
        axis = axis + self.rank if axis < 0 else axis
        if axis in self.token_axes:
            raise NotTokenWise(
                f"works along axis {axis}, which indexes tokens: padding would be mixed in"
            )
        return 1 + self.feature_axes.index(axis)

    def moved_to_front(self) -> list[int]:
        """The permutation that brings the token axes to the front."""
        return [*dict.fromkeys((self.batch_axis, self.sequence_axis)), *self.feature_axes]

    def broadcast_to(self, rank: int) -> Layout:
        """The layout after broadcasting has added axes at the left."""
        shift = rank - self.rank
        return self.placed(rank, self.batch_axis + shift, self.sequence_axis + shift)


def same_size(left: Dim, right: Dim) -> bool:
    """Whether two dimensions are known to be equal."""
    a, b = to_expression(left), to_expression(right)
    return a is not None and b is not None and a == b


def covers_pairs(attention_mask: ir.Value, mask: ir.Value) -> bool:
    """Whether an attention mask is ``[B, H or 1, S, S]``, sized as the padding mask ``[B, S]``."""
    if attention_mask.shape is None or mask.shape is None or len(attention_mask.shape) != 4:
        return False
    batch, sequence = mask.shape
    wanted = {0: batch, 2: sequence, 3: sequence}
    return all(same_size(attention_mask.shape[axis], size) for axis, size in wanted.items())


def leading_layout(value: ir.Value | None, mask: ir.Value) -> Layout | None:
    """The layout of a value shaped ``[B, S, ...]`` like the mask ``[B, S]``, else None."""
    if value is None or value.shape is None or mask.shape is None or len(value.shape) < 2:
        return None
    if all(same_size(value.shape[axis], mask.shape[axis]) for axis in (0, 1)):
        return Layout(len(value.shape))
    return None
