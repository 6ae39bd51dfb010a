"""The curve of early exits as a picture: accuracy over the time that is saved."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

_MARKERS = "osD^vP"
_PANEL_INCHES = (5.0, 3.8)
_KEPT = 0.99
_SAVED = 0.4


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draw a panel for each batch size, a line for each kind of heads and exit test.

    Args:
        record: what ``benchmarks.early_exit`` writes as JSON.
        path: where to; the ending says in which format.
    """
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: pip install 'dechaff[benchmarks]' for matplotlib", file=sys.stderr)
        return
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    base = record["base"]
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for point in record["points"]:
        lines.setdefault((point["heads"], point["criterion"]), []).append(point)
    sizes = list(base["saved"])
    width, height = _PANEL_INCHES
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(width * len(sizes), height), sharey=True, layout="constrained"
    )
    for axis, size in zip(axes, sizes, strict=True):
        for marker, (name, points) in zip(_MARKERS, lines.items(), strict=False):
            saved = [100 * point["saved"][size] for point in points]
            accuracy = [100 * point["accuracy"] for point in points]
            axis.plot(saved, accuracy, marker=marker, label=", ".join(name))
        axis.axhline(100 * base["accuracy"], color="black", linewidth=0.8)
        axis.axhline(100 * _KEPT * base["accuracy"], color="grey", linestyle=":")
        axis.axvline(100 * _SAVED, color="grey", linestyle=":")
        axis.set_title(f"batch {size}")
        axis.set_xlabel("time saved, %")
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
