"""The findings as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.machine import describe_machine, versions
from benchmarks.prepared import code_digest

from .findings import Finding, means, verdicts
from .measurement import HOPELESS

_INTRODUCTION = f"""# Results

Written by `python -m benchmarks.grid --publish`. Every cell of the grid is a process of its own, in
which all contestants take turns on the same inputs, with the same number of threads. Ratios are
medians of the ratios within a round. *speedup* is the latency of the fastest dense peer over
dechaff's, and *of the limit* that of computing each sequence alone at its own length, without any
padding, over dechaff's. Errors are the largest differences to torch on valid positions, float32.
A dense peer more than {HOPELESS} times slower than the best of them when tried gets no rounds: its
figure, in brackets, is that of its trial.
"""
_LENGTHS = {
    "uniform": "lengths spread evenly over [0.2 S, S]",
    "full": "no padding",
    "text": "lengths of sentences of Python's documentation, cut to S; padded to the longest",
}


def results_page(findings: Sequence[Finding], figure: str | None) -> str:
    """All of it: the machine, the bar, means, and a table per model and kind of lengths.

    Args:
        findings: one per cell.
        figure: the plot's file name; None if there is none.
    """
    parts = [_INTRODUCTION, _machine(findings)]
    if figure is not None:
        parts.append(f"![speedup by sequence length]({figure})\n")
    parts += ["## The bar\n", *(_verdict_line(*item) for item in verdicts(findings)), ""]
    parts += ["## Means\n", _means_table(findings)]
    groups: dict[tuple[str, int, str], list[Finding]] = {}
    for item in findings:
        groups.setdefault((item.cell.model, item.cell.layers, item.cell.lengths), []).append(item)
    for (model, layers, lengths), group in groups.items():
        thin = f" of {layers} layers" if layers else ""
        parts += [f"## {model}{thin}, {lengths}\n", f"{_LENGTHS[lengths]}.\n", _cells_table(group)]
    return "\n".join(parts)


def _machine(findings: Sequence[Finding]) -> str:
    lines = [f"- {name}: {value}" for name, value in describe_machine().items()]
    lines.append("- versions: " + ", ".join(f"{name} {v}" for name, v in versions().items()))
    lines.append("- threads: " + _listed({item.figures["threads"] for item in findings}))
    older = sum(item.figures["code"] != code_digest() for item in findings)
    if older:
        lines.append(f"- {older} of {len(findings)} cells are of an earlier state of dechaff")
    return "\n".join([*lines, ""])


def _listed(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))


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
