"""The findings as Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from benchmarks.peers import DECHAFF

from .findings import OTHERS_BAR, Finding, means, verdicts
from .measurement import HOPELESS, HOPELESS_IN_LONG_CELLS

_INTRODUCTION = f"""# Results

Written by `python -m benchmarks.grid` from what lies in `benchmarks/measured`. In every cell of the
grid all contestants take turns on the same inputs, in one process and with the same number of
threads. Ratios are medians of the ratios within a round; the tables tell how many rounds. *speedup*
is the latency of the fastest dense peer over dechaff's, and *of the limit* that of computing each
sequence alone at its own length, without any padding, over dechaff's. Errors are the largest
differences to torch on valid positions, float32.

dechaff's target is `auto`: it is shown a batch, and takes the runtime that is the faster one on it;
and of a batch without padding, whether removal pays. It is shown 16 rows of up to 128 tokens, and
the row itself in cells of one row.

A dense peer more than {HOPELESS} times slower than the best of them when tried gets no rounds
({HOPELESS_IN_LONG_CELLS} times where a round takes long): its figure, in brackets, is that of its
trial. Cells beside which other processes took more than {OTHERS_BAR:.0%} of the machine are left
out, and measured again.
"""
_LENGTHS = {
    "uniform": "lengths spread evenly over [0.2 S, S]",
    "full": "no padding",
    "text": "lengths of paragraphs of Python's documentation, cut to S; padded to the longest",
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """All that was measured on one machine.

    Attributes:
        description: what it is, by name of the fact.
        findings: one per cell.
        figure: the plot's file name; None if there is none.
    """

    description: dict[str, str]
    findings: Sequence[Finding]
    figure: str | None

    @property
    def title(self) -> str:
        """The processor, with the newest of its instruction sets, since names repeat."""
        newest = self.description.get("instruction sets", "").split()[-1:]
        return " with ".join([self.description.get("processor", "a machine"), *newest])


def results_page(machines: Sequence[Machine]) -> str:
    """All of it: for each machine the bar, means, and a table per model and kind of lengths."""
    return "\n".join([_INTRODUCTION, *(part for m in machines for part in _machine_parts(m))])


def _machine_parts(machine: Machine) -> list[str]:
    findings = machine.findings
    parts = [f"## {machine.title}\n", _machine(machine)]
    if machine.figure is not None:
        parts.append(f"![speedup by sequence length]({machine.figure})\n")
    parts += ["### The bar\n", *(_verdict_line(*item) for item in verdicts(findings)), ""]
    parts += ["### Means\n", _means_table(findings)]
    groups: dict[tuple[str, int, str], list[Finding]] = {}
    for item in findings:
        groups.setdefault((item.cell.model, item.cell.layers, item.cell.lengths), []).append(item)
    for (model, layers, lengths), group in groups.items():
        thin = f" of {layers} layers" if layers else ""
        runtimes = _listed({_runtime(item) for item in group})
        parts += [f"### {model}{thin}, {lengths}\n", f"{_LENGTHS[lengths]}; dechaff {runtimes}.\n"]
        parts.append(_cells_table(group))
    return parts


def _machine(machine: Machine) -> str:
    lines = [f"- {name}: {value}" for name, value in machine.description.items()]
    lines.append("- threads: " + _listed({str(f.figures["threads"]) for f in machine.findings}))
    for text in dict.fromkeys(_versions(item) for item in machine.findings):
        count = sum(_versions(item) == text for item in machine.findings)
        lines.append(f"- versions of {count} cells: {text}")
    return "\n".join([*lines, ""])


def _runtime(item: Finding) -> str:
    """What runs dechaff's model, as its contestant tells."""
    (row,) = [row for row in item.figures["rows"] if row["name"] == DECHAFF]
    return str(row["detail"]).partition(";")[0]


def _versions(item: Finding) -> str:
    return ", ".join(f"{name} {version}" for name, version in item.figures["versions"].items())


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(values))


def _verdict_line(met: bool, text: str) -> str:
    return f"- {'met' if met else '**missed**'}: {text}"


def _means_table(findings: Sequence[Finding]) -> str:
    rows = [
        (
            mean.model,
            mean.lengths,
            str(mean.batch),
            str(mean.cells),
            f"{mean.speedup:.2f}x",
            "" if math.isnan(mean.limit_share) else f"{mean.limit_share:.2f}",
            f"{mean.worst:.2f}x",
        )
        for mean in means(findings)
    ]
    headings = ("model", "lengths", "B", "cells", "speedup", "of the limit, S >= 128", "worst cell")
    return _table(headings, rows, left=2)


def _cells_table(findings: Sequence[Finding]) -> str:
    titles: dict[str, str] = {}
    for item in findings:
        titles |= {
            row["name"]: row["title"] for row in item.figures["rows"] if row["is_dense_peer"]
        }
    rows = [
        (
            str(item.cell.batch),
            str(item.cell.sequence),
            f"{item.figures['valid_share']:.0%} of {item.figures['padded_length']}",
            f"{item.milliseconds:.1f}",
            f"**{item.speedup:.2f}x**",
            "" if item.limit_share is None else f"{item.limit_share:.2f}",
            f"{item.error:.0e}",
            str(item.figures["rounds"]),
            *(_peer(item, name) for name in titles),
        )
        for item in findings
    ]
    headings = ("B", "S", "valid", "dechaff ms", "speedup", "of the limit", "error", "rounds")
    failures = sorted(
        {
            f"- {name} did not run: {reason}"
            for item in findings
            for name, reason in item.figures["failures"].items()
        }
    )
    return "\n".join([_table((*headings, *titles.values()), rows, left=0), *failures, ""])


def _peer(item: Finding, name: str) -> str:
    """A dense peer's latency over dechaff's; in brackets if it was tried only."""
    for row in item.figures["rows"]:
        if row["name"] == name:
            text = f"{row['ratio']:.2f}x"
            return text if row["rounds"] else f"({text})"
    return ""


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    lines = [
        "| " + " | ".join(headings) + " |",
        "|" + " --- |" * left + " ---: |" * (len(headings) - left),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join([*lines, ""])
