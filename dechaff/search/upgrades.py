"""In which order edits are made bolder: least harm for what is saved, over all places at once."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

from dechaff.passes import Edit


@dataclasses.dataclass(frozen=True)
class Worth:
    """What an edit is worth by itself.

    Attributes:
        edit: the edit.
        saved: what it saves, as a share.
        harm: how much of the metric it uses up.
    """

    edit: Edit
    saved: float
    harm: float

    @property
    def place(self) -> str:
        """What edits are alternatives to it."""
        return place_of(self.edit)


def place_of(edit: Edit) -> str:
    """What edits are alternatives to it."""
    return edit.place or edit.name


def upgrades(worths: Iterable[Worth]) -> list[Edit]:
    """Edits, of which the first so many, the last at each place, are the best choice at some price.

    If harms add up, the choice that does least harm for what it saves at a price for time takes at
    each place the alternative with the least ``harm - price * saved``: the corners of the convex
    hull, as the price rises (as ZipLM, NeurIPS 2023, section 3.2, divides a budget over layers).
    """
    by_place: dict[str, list[Worth]] = {}
    for worth in worths:
        by_place.setdefault(worth.place, []).append(worth)
    steps = [step for alternatives in by_place.values() for step in _corners(alternatives)]
    return [edit for _, edit in sorted(steps, key=lambda step: step[0])]


def _corners(alternatives: Sequence[Worth]) -> list[tuple[float, Edit]]:
    """Slope and edit of each corner of the lower convex hull, from nothing saved on."""
    corners: list[tuple[float, float, Edit | None]] = [(0.0, 0.0, None)]
    for worth in sorted(alternatives, key=lambda each: (each.saved, each.harm)):
        if worth.saved <= corners[-1][0]:
            continue
        while len(corners) > 1 and _slope(corners[-1], worth) <= _between(*corners[-2:]):
            corners.pop()
        corners.append((worth.saved, worth.harm, worth.edit))
    pairs = itertools.pairwise(corners)
    return [(_between(left, right), right[2]) for left, right in pairs if right[2] is not None]


def _slope(corner: tuple[float, float, Edit | None], worth: Worth) -> float:
    return (worth.harm - corner[1]) / (worth.saved - corner[0])


def _between(
    left: tuple[float, float, Edit | None], right: tuple[float, float, Edit | None]
) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def chosen(steps: Sequence[Edit]) -> list[Edit]:
    """The last of these edits at each place."""
    return list({place_of(edit): edit for edit in steps}.values())
