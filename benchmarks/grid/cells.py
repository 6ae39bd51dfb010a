"""A cell of the grid, and how long it may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from benchmarks.inputs import Lengths

START_SECONDS = 60.0
"""Loading, and compiling of those that compile, once for all cells of a process."""
_CELL_SECONDS = 4
_FLOPS_PER_SECOND_AND_THREAD = 0.8e11
_WARM_UP_RUNS = 9
"""Dense runs that trying all contestants once comes to."""
_ROUND_RUNS = 5
"""Dense runs of a round of those that are left."""


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One setting.

    Attributes:
        model: one of ``ARCHITECTURES``.
        layers: number of layers; 0 for the architecture's own.
        lengths: how row lengths are drawn.
        batch: rows.
        sequence: padded length; of ``text`` its upper bound.
    """

    model: str
    layers: int
    lengths: Lengths
    batch: int
    sequence: int

    @property
    def name(self) -> str:
        """Its file's name, without ending."""
        layers = f"-{self.layers}-layers" if self.layers else ""
        return f"{self.model}{layers}-{self.lengths}-b{self.batch}-s{self.sequence}"

    def __str__(self) -> str:
        layers = f" of {self.layers} layers" if self.layers else ""
        return f"{self.model}{layers}, {self.lengths}, B={self.batch}, S={self.sequence}"


def grid_cells(
    models: Sequence[str],
    layers: int,
    lengths: Sequence[Lengths],
    batches: Sequence[int],
    sequences: Sequence[int],
) -> list[Cell]:
    """Every combination; a model's cells follow each other, the short ones first."""
    return [
        Cell(model, layers, kind, batch, sequence)
        for model in models
        for kind in lengths
        for batch, sequence in sorted(
            ((b, s) for b in batches for s in sequences), key=lambda pair: (pair[0] * pair[1], pair)
        )
    ]


def estimated_seconds(
    cell: Cell, parameters: int, rounds: int, seconds: float, threads: int
) -> float:
    """How long a cell may take in a process that has started.

    Args:
        cell: the cell.
        parameters: weights that every token is multiplied with.
        rounds: the most rounds.
        seconds: time that rounds may take, of which there are two at least.
        threads: threads of each contestant.
    """
    length = 64 if cell.lengths == "text" else cell.sequence
    flops = 2.0 * parameters * cell.batch * min(length, cell.sequence)
    run = flops / (_FLOPS_PER_SECOND_AND_THREAD * threads)
    timed = min(rounds * _ROUND_RUNS * run, max(seconds, 2 * _ROUND_RUNS * run))
    return _CELL_SECONDS + _WARM_UP_RUNS * run + timed
