"""The findings as a picture: a panel per model and kind of lengths, a line per batch size."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

from .findings import Finding

_COLUMNS = 2
_PANEL_INCHES = (5.0, 3.4)
_MARKERS = "osD^vP"
_GREY = "#888888"


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(findings: Sequence[Finding], files: Sequence[pathlib.Path]) -> None:
    """Draw the speedup over the best dense peer by sequence length, with the limit's dotted.

    Args:
        findings: one per cell.
        files: where to; the ending says in which format.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "dechaff"  # the same picture, the same bytes
    import matplotlib.pyplot as plt

    panels: dict[tuple[str, str], list[Finding]] = {}
    for item in findings:
        panels.setdefault((_model(item), item.cell.lengths), []).append(item)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows + 0.5)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for axis, (title, group) in zip(axes.flat, panels.items(), strict=False):
        _panel(axis, f"{title[0]}, {title[1]} lengths", group)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    _legend(figure, findings)
    for axis in axes[:, 0]:
        axis.set_ylabel("times the best dense peer")
    for file in files:
        metadata: dict[str, Any] = {"Date": None} if file.suffix == ".svg" else {}
        figure.savefig(file, dpi=150, metadata=metadata)
    plt.close(figure)


def _panel(axis: Any, title: str, group: Sequence[Finding]) -> None:
    sequences = sorted({item.cell.sequence for item in group})
    for batch in sorted({item.cell.batch for item in group}):
        line = sorted((i for i in group if i.cell.batch == batch), key=lambda i: i.cell.sequence)
        places = [sequences.index(item.cell.sequence) for item in line]
        color = _color(batch)
        marker = _marker(batch)
        axis.plot(places, [i.speedup for i in line], marker=marker, color=color, markersize=5)
        limits = [
            (p, i.speedup / i.limit_share)
            for p, i in zip(places, line, strict=True)
            if i.limit_share
        ]
        if limits:
            axis.plot(*zip(*limits, strict=True), linestyle=":", color=color, linewidth=1.4)
    axis.axhline(1.0, color=_GREY, linewidth=1, zorder=0)
    axis.set_xticks(range(len(sequences)), [str(length) for length in sequences])
    axis.set_title(title, fontsize=11)
    axis.set_xlabel("padded length S")
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Any, findings: Sequence[Finding]) -> None:
    from matplotlib.lines import Line2D

    batches = sorted({item.cell.batch for item in findings})
    handles = [
        Line2D([], [], color=_color(batch), marker=_marker(batch), label=f"B={batch}")
        for batch in batches
    ]
    handles.append(Line2D([], [], color=_GREY, linestyle=":", label="limit: one at a time"))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=10
    )


def _color(batch: int) -> Any:
    """The same colour for the same batch in every panel: darker for more rows."""
    import matplotlib.pyplot as plt

    return plt.get_cmap("viridis")(0.85 - 0.8 * min(batch.bit_length() - 1, 5) / 5)


def _marker(batch: int) -> str:
    return _MARKERS[batch.bit_length() % len(_MARKERS)]


def _model(item: Finding) -> str:
    layers = item.cell.layers
    return f"{item.cell.model} ({layers} layers)" if layers else item.cell.model
