"""What the models on the way are worth: accuracy on held-out data, measured time, size; a plot."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from dechaff.arrays import Arrays
from dechaff.backends import Session, SessionSettings
from dechaff.ir import MissingPackageError, Module
from dechaff.passes import Pass

from .confidence import Drop, drop_between, standard_error
from .metric import Metric, Results
from .result import Point
from .validation import LabelledInputs

_MOST_POINTS = 7
_ROUNDS = 7
_TIMED_BATCHES = 4

Build = Callable[[Sequence[Pass]], Module]
"""Makes the module to be served by these passes."""


def measure_points(
    points: Sequence[Point],
    build: Build,
    held_out: Sequence[LabelledInputs],
    metric: Metric,
    session: SessionSettings | None,
    *,
    losses: bool = False,
) -> tuple[Point, ...]:
    """Held-out metric, time and size of the first and last points and of some between them.

    The models take turns on the same batches; the time is the median over the rounds.

    Args:
        points: in the order in which the search made them, the original first.
        build: makes the served module.
        held_out: batches that the search has not seen.
        metric: the metric.
        session: threads, affinity and memory.
        losses: whether to work out how far the mean loss rose, too.
    """
    chosen = _some(points)
    modules = [build(point.passes) for point in chosen]
    sessions = [Session(module, settings=session) for module in modules]
    outputs = [[each.run(item.inputs) for item in held_out] for each in sessions]
    results = [_results(found, held_out, outputs[0]) for found in outputs]
    figures = [metric.figures(each) for each in results]
    rises = [_rise(metric, results[0], each) if losses else None for each in results]
    times = _milliseconds(sessions, held_out)
    return tuple(
        dataclasses.replace(
            point,
            held_out=found.score,
            held_out_drop=None if found is figures[0] else drop_between(figures[0], found),
            held_out_rise=None if found is figures[0] else rise,
            milliseconds=milliseconds,
            megabytes=weight_bytes(module) / 1e6,
        )
        for point, module, found, rise, milliseconds in zip(
            chosen, modules, figures, rises, times, strict=True
        )
    )


def _rise(metric: Metric, before: Results, after: Results) -> Drop:
    """How far the mean loss rose."""
    first, second = (
        np.concatenate([metric.losses(*result) for result in results])
        for results in (before, after)
    )
    more = second - first
    unit = "rows" if len(more) > len(before) else "batches"
    return Drop(float(more.mean()), standard_error(more), len(more), unit)


def _some(points: Sequence[Point]) -> list[Point]:
    if len(points) <= _MOST_POINTS:
        return list(points)
    step = (len(points) - 1) / (_MOST_POINTS - 1)
    return [points[round(number * step)] for number in range(_MOST_POINTS)]


def _results(
    found: Sequence[Arrays], held_out: Sequence[LabelledInputs], original: Sequence[Arrays]
) -> Results:
    return [
        (outputs, item.batch, before)
        for outputs, item, before in zip(found, held_out, original, strict=True)
    ]


def _milliseconds(sessions: Sequence[Session], held_out: Sequence[LabelledInputs]) -> list[float]:
    """Median milliseconds of a batch, by session, over some of the batches."""
    step = max(1, len(held_out) // _TIMED_BATCHES)
    timed = held_out[step // 2 :: step][:_TIMED_BATCHES]
    rounds: list[list[float]] = [[] for _ in sessions]
    for _ in range(_ROUNDS):
        for number, session in enumerate(sessions):
            started = time.perf_counter()
            for item in timed:
                session.run(item.inputs)
            rounds[number].append((time.perf_counter() - started) / len(timed))
    return [1000 * statistics.median(seconds) for seconds in rounds]


def weight_bytes(module: Module) -> int:
    """Bytes of all weights, those of subgraphs included."""
    return sum(
        value.const_value.nbytes
        for graph in module.model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )


def plot_points(
    points: Sequence[Point], metric: str, path: str | os.PathLike[str], *, over_size: bool = False
) -> None:
    """Draw the metric over time, or over size, to an image file; points are named above it.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "benchmarks", "the plot") from error
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.add_subplot()
    measured = [point for point in points if point.milliseconds is not None]
    places = [(point.megabytes if over_size else point.milliseconds) or 0.0 for point in measured]
    for part, style in (("held_out", "o-"), ("searched", "x--")):
        figures = [getattr(point, part) for point in measured]
        axes.plot(places, figures, style, label=part.replace("_", "-") + " part")
    names = []
    for number, (point, x) in enumerate(zip(measured, places, strict=True), 1):
        place = (x, point.held_out or 0.0)
        axes.annotate(str(number), place, xytext=(5, 5), textcoords="offset points")
        other = f"{point.milliseconds:.1f} ms" if over_size else f"{point.megabytes:.0f} MB"
        names.append(f"{number}  {point.name}, {other}")
    figure.suptitle("\n".join(names), x=0.08, ha="left", fontsize=8)
    axes.set_xlabel("MB" if over_size else "median milliseconds per held-out batch")
    axes.set_ylabel(metric)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)
