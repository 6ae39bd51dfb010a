"""What the cells say: the best dense peer, the share of the limit, means, and the bar."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.accuracy import TOLERANCE
from benchmarks.peers import DECHAFF, LIMIT

from .cells import Cell

SPEEDUP_BAR = 1.6
"""Geometric mean over the sequence lengths, uniform lengths, of dechaff against the best dense."""
SPEEDUP_BATCHES = (16, 32)
LIMIT_BAR = 0.95
LIMIT_FROM = 128
CELL_BAR = 0.97
OTHERS_BAR = 0.05
"""A cell beside which other processes took more of the machine counts as not measured."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one cell says.

    Attributes:
        cell: the cell.
        milliseconds: dechaff's median latency.
        best: title of the fastest dense peer.
        speedup: that peer's latency over dechaff's; above 1 dechaff is faster.
        limit_share: the limit's latency over dechaff's; 1 is the limit. None if not measured.
        error: dechaff's largest error on valid positions.
        figures: all that was measured.
    """

    cell: Cell
    milliseconds: float
    best: str
    speedup: float
    limit_share: float | None
    error: float
    figures: dict[str, Any]


def find(cell: Cell, figures: dict[str, Any]) -> Finding:
    """Read a cell."""
    rows = {row["name"]: row for row in figures["rows"]}
    dense = [row for row in rows.values() if row["is_dense_peer"]]
    best = min((row for row in dense if row["rounds"]), key=lambda row: row["ratio"])
    return Finding(
        cell=cell,
        milliseconds=rows[DECHAFF]["milliseconds"],
        best=best["title"],
        speedup=best["ratio"],
        limit_share=rows[LIMIT]["ratio"] if LIMIT in rows else None,
        error=rows[DECHAFF]["max_error"],
        figures=figures,
    )


def was_alone(figures: dict[str, Any]) -> bool:
    """Whether other processes left the machine to the contestants while they were timed."""
    return bool(figures.get("others_share", 0.0) <= OTHERS_BAR)


def finding_line(finding: Finding) -> str:
    """A cell on one line."""
    limit = "" if finding.limit_share is None else f", {finding.limit_share:.2f} of the limit"
    return (
        f"{finding.cell}: {finding.milliseconds:.1f} ms, {finding.speedup:.2f}x of "
        f"{finding.best}{limit}, error {finding.error:.0e}, {finding.figures['rounds']} rounds, "
        f"{finding.figures['seconds']:.0f} s{'' if was_alone(finding.figures) else ', NOT ALONE'}"
    )


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; not a number if there are none."""
    logarithms = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logarithms)) if logarithms else math.nan


@dataclasses.dataclass(frozen=True)
class Mean:
    """Geometric means of one batch size over the sequence lengths."""

    model: str
    lengths: str
    batch: int
    cells: int
    speedup: float
    limit_share: float
    worst: float


def means(findings: Sequence[Finding]) -> list[Mean]:
    """A line per model, kind of lengths and batch; the limit's share for long sequences only."""
    groups: dict[tuple[str, str, int], list[Finding]] = {}
    for item in findings:
        key = (_model(item.cell), item.cell.lengths, item.cell.batch)
        groups.setdefault(key, []).append(item)
    return [
        Mean(
            *key,
            cells=len(group),
            speedup=geometric_mean(item.speedup for item in group),
            limit_share=geometric_mean(
                item.limit_share
                for item in group
                if item.limit_share is not None and item.cell.sequence >= LIMIT_FROM
            ),
            worst=min(item.speedup for item in group),
        )
        for key, group in groups.items()
    ]


def verdicts(findings: Sequence[Finding]) -> list[tuple[bool, str]]:
    """Each bar: whether it is met, and in words by how much."""
    judged: list[tuple[bool, str]] = []
    for mean in means(findings):
        if mean.lengths != "uniform" or mean.batch not in SPEEDUP_BATCHES:
            continue
        place = f"{mean.model}, B={mean.batch}, uniform lengths"
        judged.append(_at_least(mean.speedup, SPEEDUP_BAR, f"{place}: times the best dense peer"))
        if not math.isnan(mean.limit_share):
            text = f"{place}: of the limit at S >= {LIMIT_FROM}"
            judged.append(_at_least(mean.limit_share, LIMIT_BAR, text))
    if findings:
        worst = min(findings, key=lambda item: item.speedup)
        text = f"the worst of all {len(findings)} cells ({worst.cell})"
        judged.append(_at_least(worst.speedup, CELL_BAR, text))
        wrong = max(findings, key=lambda item: item.error)
        judged.append(
            (
                wrong.error < TOLERANCE,
                f"largest error on valid positions: {wrong.error:.1e} ({wrong.cell}), "
                f"the bar is {TOLERANCE:.0e}",
            )
        )
        zero = all(item.figures["padding_is_zero"] for item in findings)
        judged.append((zero, "padded positions of dechaff's outputs are exactly zero"))
    return judged


def _at_least(value: float, bar: float, text: str) -> tuple[bool, str]:
    return value >= bar, f"{text}: {value:.2f}, the bar is {bar:.2f}"


def _model(cell: Cell) -> str:
    return f"{cell.model} ({cell.layers} layers)" if cell.layers else cell.model
