"""What was measured as a table, and in lines."""

from __future__ import annotations

from typing import Any

from benchmarks.peers import DECHAFF
from dechaff.search.confidence import Drop

DENSE = ("torch", "openvino", "ort18", "ort23", "ort18-fused", "ort23-fused")
"""Peers, none of which removes padding."""


def to_markdown(record: dict[str, Any]) -> str:
    """The rows as a table, the searches below it."""
    base = next(row for row in record["rows"] if row["name"] == DECHAFF)
    lines = [
        "| contestant | ms per batch | dechaff exact takes | test accuracy | MB | MB of layers |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in record["rows"]:
        figures = [
            f"{row['milliseconds']:.2f}",
            f"{1 / row['ratio']:.2f}x",
            *(_number(row[name], digits) for name, digits in (("accuracy", 4), ("megabytes", 1))),
            _number(row["layers_megabytes"], 1),
        ]
        lines.append(f"| {row['title']} | {' | '.join(figures)} |")
    dense = [row for row in record["rows"] if row["name"] in DENSE]
    if dense:
        best = min(dense, key=lambda row: float(row["ratio"]))
        lines += ["", f"- best dense peer: {best['title']}"]
        lines += [
            f"- {row['title']}: {best['ratio'] / row['ratio']:.2f} times as fast as it"
            for row in record["rows"]
            if row not in dense
        ]
    for item in record["searches"]:
        row = next(row for row in record["rows"] if row["name"] == item["mode"])
        complete = "" if item["summary"]["complete"] else " (cut by its budget)"
        lines.append(
            f"- mode {item['mode']}, in {item['runtime']}: {1 / row['ratio']:.2f}x faster than "
            f"dechaff exact, layers {base['layers_megabytes'] / row['layers_megabytes']:.2f}x "
            f"smaller, all weights {base['megabytes'] / row['megabytes']:.2f}x; "
            f"test accuracy {base['accuracy']:.4f} -> "
            f"{row['accuracy']:.4f}, drop {Drop(**row['drop'])}; "
            f"{item['summary']['seconds']:.0f} s of search{complete}; passes `{item['pass_list']}`"
        )
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
