"""Settings of early exits, and their time beside the model without exits."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import dechaff
from benchmarks.early_exit_plot import plot
from benchmarks.inputs import Array
from benchmarks.machine import describe_machine, versions
from benchmarks.measure import median_ratio, time_interleaved

Batches = Sequence[Mapping[str, Array]]


@dataclasses.dataclass
class Point:
    """One setting, and what was measured of it.

    Attributes:
        heads: which heads answer, as in the table; of several stacks, all their exits.
        criterion: the exit test; empty where ``heads`` says it.
        keep: the share of the accuracy on dev that was to be kept.
        passes: the pass list.
        layers: mean layers run, on dev, by stack; not a number for a stack without exits.
        accuracy: on test.
        milliseconds: median time of a batch, by batch size.
        saved: share of the time of the model without exits that is saved, by batch size.
    """

    heads: str
    criterion: str
    keep: float
    passes: str
    layers: list[float] = dataclasses.field(default_factory=list)
    accuracy: float = 0.0
    milliseconds: dict[str, float] = dataclasses.field(default_factory=dict)
    saved: dict[str, float] = dataclasses.field(default_factory=dict)


def without_verification(model: pathlib.Path, passes: str) -> dechaff.OptimizedModel:
    """The optimized model."""
    return dechaff.optimize(str(model), passes=passes, verify="off")


def share_of_right_answers(model: dechaff.OptimizedModel, batches: Batches, labels: Array) -> float:
    """Accuracy of a classifier."""
    answers = [next(iter(model.run(batch).values())).argmax(axis=-1) for batch in batches]
    return float((np.concatenate(answers) == labels).mean())


def time_points(
    points: Sequence[Point], model: pathlib.Path, batches: Mapping[int, Batches], rounds: int
) -> None:
    """Fill in the times.

    Args:
        points: of which the first is the model without exits.
        model: the file.
        batches: what is run, by batch size.
        rounds: turns of each.
    """
    models = [without_verification(model, point.passes) for point in points]
    for size, inputs in batches.items():
        runs = {str(number): _runner(each, inputs) for number, each in enumerate(models)}
        timings = time_interleaved(runs, rounds)
        for number, point in enumerate(points):
            seconds = statistics.median(timings[str(number)]) / len(inputs)
            point.milliseconds[str(size)] = 1e3 * seconds
            point.saved[str(size)] = 1 - median_ratio(timings, str(number), "0")


def _runner(model: dechaff.OptimizedModel, batches: Batches) -> Callable[[], None]:
    def run() -> None:
        for batch in batches:
            model.run(batch)

    return run


def read_points(path: pathlib.Path) -> list[Point]:
    """What ``write_points`` wrote."""
    return [Point(**fields) for fields in json.loads(path.read_text("utf-8"))]


def write_points(path: pathlib.Path, points: Sequence[Point]) -> None:
    """What is calibrated, for a later run that measures."""
    fields = [dataclasses.asdict(point) for point in points]
    path.write_text(json.dumps(fields, indent=2) + "\n", "utf-8")


def write_results(
    folder: pathlib.Path, name: str, table: str, base: Point, points: Sequence[Point]
) -> None:
    """The table, which is printed too, the figures and the plot."""
    print(table)
    (folder / f"{name}.md").write_text(table + "\n", "utf-8")
    record = {
        "base": dataclasses.asdict(base),
        "points": [dataclasses.asdict(point) for point in points],
        "machine": describe_machine(),
        "versions": versions(),
    }
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    for ending in ("png", "svg"):
        plot(record, folder / f"{name}.{ending}")
