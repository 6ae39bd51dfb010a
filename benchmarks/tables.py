"""Results as a table on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

from rich.console import Console, ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

_HEADINGS = ("contestant", "median ms", "times dechaff's", "max error", "first answer s")
_PLAIN_WIDTH = 140


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found of one contestant.

    Attributes:
        name: as ``--peers`` takes it.
        title: as tables show it.
        milliseconds: median latency of a batch.
        ratio: its latency over dechaff's, median over the rounds; above 1 it is slower.
        max_error: largest absolute difference to the reference on valid positions.
        ready_seconds: from the model (exported already) to its first answer.
        is_dense_peer: whether it counts for "best dense peer".
        detail: what a reader should know.
    """

    name: str
    title: str
    milliseconds: float
    ratio: float
    max_error: float
    ready_seconds: float
    is_dense_peer: bool
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Results:
    """One run of the benchmark.

    Attributes:
        setting: model, batch, sequence, lengths, door, threads and rounds, by name.
        versions: versions of the packages that took part.
        rows: a row per contestant.
        valid_share: share of positions that hold a token, T / (B * S).
        padding_is_zero: whether dechaff's padded positions are exactly zero.
        peak_resident_bytes: of the whole process, all contestants together.
    """

    setting: dict[str, str | int]
    versions: dict[str, str]
    rows: Sequence[Row]
    valid_share: float
    padding_is_zero: bool
    peak_resident_bytes: int

    def best_dense_peer(self) -> Row | None:
        """The fastest of the dense peers that took part, by its ratio to dechaff."""
        dense = [row for row in self.rows if row.is_dense_peer]
        return min(dense, key=lambda row: row.ratio, default=None)

    def summary(self) -> list[str]:
        """The findings, a line each."""
        zero = "exactly zero" if self.padding_is_zero else "NOT zero"
        lines = [
            f"valid tokens: {self.valid_share:.1%} of the padded batch",
            f"padded positions of dechaff's outputs: {zero}",
            f"peak memory, all contestants together: {self.peak_resident_bytes / 2**20:.0f} MiB",
        ]
        best = self.best_dense_peer()
        if best is not None:
            lines.insert(
                0, f"best dense peer: {best.title}; dechaff is {best.ratio:.2f} times as fast"
            )
        return lines + [f"{row.title}: {row.detail}" for row in self.rows if row.detail]

    def heading(self) -> str:
        """What was run, on one line."""
        return ", ".join(f"{name} {value}" for name, value in self.setting.items())


def show(results: Results, console: Console | None = None) -> None:
    """Print the table and the findings."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=_PLAIN_WIDTH)
    console.print(_renderable(results))


def to_markdown(results: Results) -> str:
    """The table in Markdown, with the findings as a list below."""
    lines = [
        f"*{results.heading()}*",
        "",
        "| " + " | ".join(_HEADINGS) + " |",
        "| --- |" + " ---: |" * (len(_HEADINGS) - 1),
        *("| " + " | ".join(_cells(row)) + " |" for row in results.rows),
        "",
        *(f"- {line}" for line in [*results.summary(), _versions(results)]),
    ]
    return "\n".join(lines)


def to_json(results: Results) -> str:
    """Everything, as JSON."""
    data = dataclasses.asdict(results)
    best = results.best_dense_peer()
    data["best_dense_peer"] = best.name if best is not None else None
    return json.dumps(_finite(data), indent=2, allow_nan=False)


def _finite(data: object) -> object:
    if isinstance(data, dict):
        return {key: _finite(item) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(item) for item in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _renderable(results: Results) -> ConsoleRenderable:
    table = Table(title=results.heading(), title_justify="left")
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if index else "left")
    for row in results.rows:
        table.add_row(*_cells(row))
    return Group(table, *(Text(line) for line in [*results.summary(), _versions(results)]))


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.title,
        f"{row.milliseconds:.1f}",
        f"{row.ratio:.2f}x",
        f"{row.max_error:.1e}",
        f"{row.ready_seconds:.1f}",
    )


def _versions(results: Results) -> str:
    return ", ".join(f"{name} {version}" for name, version in results.versions.items())
