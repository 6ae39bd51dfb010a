"""What weights of few bits cost, as a picture: error and accuracy over the size of the file."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
from collections.abc import Sequence

from .classifier_accuracy import Row

_MARKERS = "osD^vP"
_PANEL_INCHES = (5.2, 4.0)
_WIDTH = re.compile(r"(bits|average)=([\d.]+)")


def series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows whose pass lists differ in the number of bits alone, smaller files first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        name, replaced = _WIDTH.subn(r"\1=...", row.passes)
        if replaced:
            found.setdefault(name, []).append(row)
    return {name: sorted(each, key=lambda row: row.size) for name, each in found.items()}


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Draw the error of the logits and the drop in accuracy, a line for each kind of pass list.

    Args:
        rows: what was measured.
        path: where to; the ending says in which format.
    """
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: pip install 'dechaff[benchmarks]' for matplotlib", file=sys.stderr)
        return
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    width, height = _PANEL_INCHES
    figure, axes = plt.subplots(1, 2, figsize=(2 * width, height), layout="constrained")
    for marker, (name, found) in zip(_MARKERS, series(rows).items(), strict=False):
        sizes = [row.size / 1e6 for row in found]
        label = name.removeprefix("default,")
        axes[0].plot(sizes, [row.error for row in found], marker=marker, label=label)
        axes[1].errorbar(
            sizes,
            [100 * row.drop.mean for row in found],
            yerr=[100 * row.drop.error for row in found],
            marker=marker,
            capsize=2,
            label=label,
        )
    axes[0].set_yscale("log")
    axes[0].set_ylabel("error of the logits, relative")
    axes[1].axhline(0, color="black", linewidth=0.8)
    axes[1].set_ylabel("drop in accuracy, points, with standard error")
    for axis in axes:
        axis.set_xlabel("MB on disk")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="x-small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
