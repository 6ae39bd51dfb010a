"""``python -m benchmarks.memory``: peak memory of running dechaff's model and its peers'.

Every contestant runs alone in a process, on the same inputs; Linux only. *running* is the most
memory held while the batch ran three times, weights and mapped files included; *loading* the most
until then, a first run included.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from dechaff.backends.onnxruntime.threads import usable_cores

from .child_process import ChildFailedError, run_child
from .grid.cells import Cell
from .inputs import LENGTHS
from .models import ARCHITECTURES
from .peers import DECHAFF, PEERS, REFERENCE, installed
from .prepared import Prepared, prepare

DENSE = "dechaff-dense"
_HERE = pathlib.Path(__file__).resolve().parent
_DEFAULT_PEERS = (REFERENCE, "openvino", "ort18", "ort18-fused", "ort23", DENSE, DECHAFF)
_DEFAULT_SHAPES = ("1x128", "16x128", "32x128", "16x512")
_SLACK = 1.01
"""Peaks of the same run differ by some pages."""
_DONE, _MISSED, _INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table in Markdown.

    Returns:
        0; 1 if dechaff takes more memory to run than it does without padding removal, or a
        contestant could not be measured; 130 if interrupted.
    """
    options = _parse(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        prepared = prepare(options.model, options.layers or None, options.results / "models")
        peaks = [_measure_cell(cell, prepared, options.peers) for cell in _cells(options)]
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    table = to_markdown(peaks, options.model)
    (options.results / "memory.md").write_text(table + "\n", encoding="utf-8")
    (options.results / "memory.json").write_text(json.dumps(peaks, indent=1), encoding="utf-8")
    print(table)
    return _DONE if all(is_met(cell) for cell in peaks) else _MISSED


def is_met(cell: dict[str, Any]) -> bool:
    """Whether everything was measured, and padding removal costs no memory."""
    peaks = cell["peaks"]
    if any(peak is None for peak in peaks.values()):
        return False
    return bool(peaks[DECHAFF]["running"] <= _SLACK * peaks[DENSE]["running"])


def to_markdown(peaks: Sequence[dict[str, Any]], model: str) -> str:
    """A row per contestant, a column per shape."""
    names = list(peaks[0]["peaks"])
    headings = [f"B={cell['cell']['batch']}, S={cell['cell']['sequence']}" for cell in peaks]
    lines = [
        f"*{model}: peak MiB while running (while loading); dechaff needs no more than without "
        f"padding removal: {'met' if all(is_met(cell) for cell in peaks) else '**missed**'}*",
        "",
        "| contestant | " + " | ".join(headings) + " |",
        "| --- |" + " ---: |" * len(headings),
    ]
    for name in names:
        cells = [_cell_text(cell["peaks"][name]) for cell in peaks]
        lines.append(f"| {PEERS[name].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell_text(peak: dict[str, int] | None) -> str:
    if peak is None:
        return "failed"
    return f"{peak['running'] / 2**20:.0f} ({peak['loading'] / 2**20:.0f})"


def _cells(options: argparse.Namespace) -> list[Cell]:
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes]
    return [Cell(options.model, options.layers, options.lengths, b, s) for b, s in shapes]


def _measure_cell(cell: Cell, prepared: Prepared, names: Sequence[str]) -> dict[str, Any]:
    peaks: dict[str, Any] = {}
    for name in names:
        print(f"{cell}: {PEERS[name].title} ...", file=sys.stderr, flush=True)
        for path in {prepared.folder, *(path.parent for path in prepared.saved.values())}:
            forget_files(path)
        try:
            peaks[name] = run_child(
                "benchmarks.memory_measurement", _task(cell, prepared) | {"peer": name}
            )
        except ChildFailedError as error:
            print(f"{cell}: {name}: {error}", file=sys.stderr)
            peaks[name] = None
        print(f"  {_cell_text(peaks[name])} MiB", file=sys.stderr, flush=True)
    return {"cell": dataclasses.asdict(cell), "peaks": peaks}


def forget_files(folder: pathlib.Path) -> None:
    """Let the system drop a folder's files from its cache, so that each contestant reads them anew.

    What was written or read at once lies there in large pieces, and one byte that is touched counts
    as a whole piece: the same model took 80 MiB more just after it was written.
    """
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _task(cell: Cell, prepared: Prepared) -> dict[str, Any]:
    return {"cell": dataclasses.asdict(cell), "threads": usable_cores()} | prepared.as_task()


def _shape(text: str) -> str:
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected rows x length such as 16x128, got {text}")
    return text


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--model", choices=ARCHITECTURES, default="bert-base")
    parser.add_argument("--layers", type=int, default=0, metavar="N", help="a thinner model")
    parser.add_argument("--shapes", nargs="+", type=_shape, default=_DEFAULT_SHAPES, metavar="BxS")
    parser.add_argument("--lengths", choices=LENGTHS, default="uniform")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=_DEFAULT_PEERS)
    parser.add_argument("--results", type=pathlib.Path, default=_HERE / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    options.results = options.results.resolve()
    options.results.mkdir(parents=True, exist_ok=True)
    options.peers = installed({*options.peers, DENSE, DECHAFF})
    return options


if __name__ == "__main__":
    sys.exit(main())
