"""What a search found: the options of each pass, and every decision on the way there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from dechaff.passes import Pass

from .confidence import Drop

ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Decision:
    """What became of one edit.

    Attributes:
        pass_name: the pass that proposed it.
        level: the pass's level, such as ``blocks``.
        edit: what was tried.
        kept: whether it stands.
        score: the metric with it, on the searched part, or on a sample of that where edits are
            compared; None if the trial ended early.
        loss: the loss with it, so far as the trial went.
        seconds: time of the trial.
    """

    pass_name: str
    level: str
    edit: str
    kept: bool
    score: float | None
    loss: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Point:
    """A model on the way from the original to the result.

    Attributes:
        name: the edit that made it of the one before.
        passes: the passes that make it of the original.
        searched: the metric on the searched part.
        searched_drop: how far it fell there from the original's; None for the original.
        held_out: the metric on the held-out part.
        held_out_drop: how far it fell there.
        held_out_rise: how far the mean loss rose there, where it counts.
        milliseconds: measured median time of a held-out batch.
        megabytes: size of all weights.
    """

    name: str
    passes: tuple[Pass, ...]
    searched: float
    searched_drop: Drop | None = None
    held_out: float | None = None
    held_out_drop: Drop | None = None
    held_out_rise: Drop | None = None
    milliseconds: float | None = None
    megabytes: float | None = None

    @property
    def has_greater_loss(self) -> bool:
        """Whether the mean loss rose on the held-out part, if that was worked out."""
        return self.held_out_rise is not None and self.held_out_rise.mean > ROUNDING


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Attributes:
        metric: name of the metric.
        mode: ``accuracy``, ``size`` or ``speed``.
        max_drop: how far the metric was allowed to fall.
        margin: by how many standard errors it had to stay within that on the searched part.
        passes: the pass list found, to run again without a search.
        decisions: every trial, in order.
        points: the original, the result, and points between them.
        refused: bolder ones, which held-out data did not allow.
        held_out_original: the metric of the original on the held-out part.
        held_out: the metric of the result on the held-out part.
        complete: whether all edits were tried within the budget.
        seconds: time that the search took, interrupted runs included.
    """

    metric: str
    mode: str
    max_drop: float
    margin: float
    passes: Sequence[Pass]
    decisions: tuple[Decision, ...]
    points: tuple[Point, ...]
    refused: tuple[Point, ...]
    held_out_original: float
    held_out: float
    complete: bool
    seconds: float

    @property
    def pass_list(self) -> str:
        """The passes as a pass list is written."""
        return ",".join(str(step) for step in self.passes)

    def warnings(self) -> list[str]:
        """What a reader must know."""
        found: list[str] = []
        if not self.complete:
            tried = len(self.decisions)
            found.append(
                f"the budget ran out after {tried} trials: this is the best so far; "
                "give a larger budget, and search_folder to go on from here"
            )
        fallen = self.points[0].searched - self.points[-1].searched
        if fallen > self.max_drop + ROUNDING:
            found.append(
                f"{self.metric} fell by {fallen:.4f} on the searched part, more than max_drop "
                f"{self.max_drop:g}: a pass of the list that is not searched costs more than that"
            )
        if self.refused:
            found.append(self._refusal(self.refused[-1]))
        drop = self.points[-1].held_out_drop
        if drop is not None and drop.mean > self.max_drop:
            found.append(
                f"on the held-out part {self.metric} fell by {drop}, more than max_drop "
                f"{self.max_drop:g}: give more data, a greater margin or a smaller drop"
            )
        elif self.points[-1].has_greater_loss:
            rise = self.points[-1].held_out_rise
            found.append(f"on the held-out part the mean loss rose by {rise}: give more data")
        return found

    def _refusal(self, bolder: Point) -> str:
        """Why a point was refused on the held-out part."""
        reason = f"{self.metric} fell by {bolder.held_out_drop}, where {self.max_drop:g} is allowed"
        drop = bolder.held_out_drop
        if drop is not None and drop.mean <= self.max_drop + ROUNDING:
            reason = f"the mean loss rose by {bolder.held_out_rise}"
        return (
            f"{bolder.name} was refused in the end, and what led to it: on the held-out part "
            f"{reason}"
        )

    def table(self) -> Table:
        """The points as a table."""
        table = Table(title=f"Accuracy for speed: {self.metric}", title_justify="left")
        for heading in ("", f"{self.metric}, searched", "held out", "ms per batch", "MB"):
            table.add_column(heading, justify="right" if heading else "left")
        for point in self.points:
            figures = (point.searched, point.held_out, point.milliseconds, point.megabytes)
            digits = (4, 4, 2, 1)
            cells = [
                "" if figure is None else f"{figure:.{places}f}"
                for figure, places in zip(figures, digits, strict=True)
            ]
            table.add_row(point.name, *cells)
        return table

    def summary(self) -> Text:
        """What was searched and found, in lines."""
        kept = sum(decision.kept for decision in self.decisions)
        last = self.points[-1]
        return Text(
            f"searched for {self.mode}, max_drop {self.max_drop:g} with a margin of "
            f"{self.margin:g} standard errors: kept {kept} of {len(self.decisions)} edits tried in "
            f"{self.seconds:.0f} s\n"
            f"{self.metric} on the held-out part: {self.held_out_original:.4f} -> "
            f"{self.held_out:.4f}, drop {last.held_out_drop or 'none'}; on the searched part: drop "
            f"{last.searched_drop or 'none'}\n"
            f"the same without a search: --passes '{self.pass_list}'"
        )

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the metric over time, with sizes, to an image file; in mode ``size`` over size.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        from .pareto import plot_points

        plot_points(self.points, self.metric, path, over_size=self.mode == "size")

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        plain: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)
        }
        plain["decisions"] = [dataclasses.asdict(decision) for decision in self.decisions]
        for name in ("points", "refused"):
            plain[name] = [
                dataclasses.asdict(dataclasses.replace(point, passes=()))
                | {"passes": ",".join(map(str, point.passes))}
                for point in plain[name]
            ]
        return plain | {"passes": self.pass_list}
