"""The table of a GPU run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

CONTENDERS = (
    "dechaff",
    "torch.compile",
    "torch eager",
    "packed by hand",
    "packed by hand, graph",
    "onnxruntime",
)


def render(results: Mapping[str, Any]) -> str:
    """Markdown: circumstances, checks, times, and the mean ratios for each batch size."""
    lines = [
        f"{results.get('gpu')}, torch {results.get('torch')}, TVM {results.get('tvm')}, "
        f"{results.get('date')}: BERT-base ({results.get('layers')} layers, float16), lengths "
        "uniform in [0.2 S, S], milliseconds from the call to the result on the GPU, medians of "
        f"{results.get('rounds')} interleaved runs; matrix products: {results.get('products')}.",
        "",
    ]
    checks = results.get("checks", [])
    failed = [check["name"] for check in checks if not check["passed"]]
    largest = max((check["error"] for check in checks), default=0.0)
    lines.append(
        f"{len(checks) - len(failed)} of {len(checks)} checks against float64 pass; the largest "
        f"relative error is {largest:.1e}." + (f" WRONG: {', '.join(failed)}." if failed else "")
    )
    lines += ["", *_times(results.get("models", [])), "", *_means(results.get("models", []))]
    lines += ["", *_attention(results.get("attention", []))]
    modes = results.get("torch_compile_modes")
    if modes:
        text = ", ".join(f"{name} {value:.3f} ms" for name, value in modes["milliseconds"].items())
        lines += ["", f"torch.compile at B={modes['batch']} S={modes['sequence']}: {text}."]
    return "\n".join(lines) + "\n"


def _times(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [name for name in CONTENDERS if any(name in row["milliseconds"] for row in rows)]
    lines = [
        "| B | S | tokens | " + " | ".join(shown) + " |",
        "| --- " * (3 + len(shown)) + "|",
    ]
    for row in rows:
        times = [row["milliseconds"].get(name) for name in shown]
        cells = " | ".join("" if time is None else f"{time:.3f}" for time in times)
        lines.append(f"| {row['batch']} | {row['sequence']} | {row['tokens']} | {cells} |")
    return lines


def _means(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many times as long as dechaff each takes, the mean over S."""
    lines = []
    for batch in sorted({row["batch"] for row in rows}):
        parts = []
        for name in CONTENDERS[1:]:
            ratios = [
                row["milliseconds"][name] / row["milliseconds"]["dechaff"]
                for row in rows
                if row["batch"] == batch and name in row["milliseconds"]
            ]
            if ratios:
                parts.append(f"{name} {statistics.mean(ratios):.2f}")
        lines.append(f"B={batch}, times as long as dechaff, the mean over S: {', '.join(parts)}.")
    return lines


def _attention(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "Attention alone, microseconds on the GPU:",
        "",
        "| B | S | dechaff | varlen_attn | unfused | varlen_attn / dechaff | unfused / dechaff |",
        "| --- " * 7 + "|",
    ]
    for row in rows:
        ours, varlen, unfused = (row[name] for name in ("dechaff", "varlen_attn", "unfused"))
        lines.append(
            f"| {row['batch']} | {row['sequence']} | {ours:.1f} | {varlen:.1f} | {unfused:.1f} "
            f"| {varlen / ours:.2f} | {unfused / ours:.2f} |"
        )
    ratios = [row["unfused"] / row["dechaff"] for row in rows]
    lines += ["", f"Unfused attention takes {statistics.mean(ratios):.1f} times as long (mean)."]
    return lines
