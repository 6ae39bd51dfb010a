"""``python -m benchmarks.grid``: dechaff and its peers over models, batches, lengths.

Cells that are measured already are skipped, so that an interrupted grid goes on where it stopped;
``--minutes`` measures it piece by piece. What was measured lies in ``benchmarks/measured``, a
folder per machine, and ``benchmarks/RESULTS.md`` is made anew from all of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.arguments import positive
from benchmarks.child_process import ChildFailedError, run_child
from benchmarks.inputs import LENGTHS
from benchmarks.machine import describe_machine
from benchmarks.models import ARCHITECTURES
from benchmarks.peers import DECHAFF, DECHAFF_PASSES, LIMIT, PEERS, REFERENCE, installed
from benchmarks.prepared import EXAMPLE_SHAPE, Prepared, prepare
from dechaff.backends.onnxruntime.threads import usable_cores

from .cells import START_SECONDS, Cell, estimated_seconds, grid_cells
from .findings import find, verdicts, was_alone
from .pages import Machine, results_page
from .plot import can_plot, plot
from .store import cell_key, machine_folder, read_cell, read_cells, read_machine, write_machine

_HERE = pathlib.Path(__file__).resolve().parent.parent
_MODELS = ("bert-base", "minilm", "distilbert", "modernbert", "llama", "bert-large")
_BATCHES = (1, 4, 16, 32)
_SEQUENCES = (32, 64, 128, 256, 384, 512)
_PEERS = (REFERENCE, "torch-compile", "openvino", "ort18", "ort18-fused", "ort23", DECHAFF, LIMIT)
_KEPT_PARAMETERS = 200_000_000
"""Larger models are loaded anew for every cell: all contestants at once would fill the memory."""
_DONE, _MISSED, _INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write tables and plot.

    Returns:
        0; 1 if a cell could not be measured; 130 if interrupted.
    """
    options = _parse(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(options.results / "inductor"))
    status = _DONE
    try:
        if not options.report_only:
            status = _measure_missing(options)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        status = _INTERRUPTED
    write_report(options.measured, options.page)
    return status


def _measure_missing(options: argparse.Namespace) -> int:
    cells = grid_cells(
        options.models, options.layers, options.lengths, options.batch, options.sequence
    )
    began = time.time()
    until = began + options.minutes * 60 if options.minutes else math.inf
    folder = machine_folder(options.measured, usable_cores())
    missing_anywhere, failed = 0, 0
    for model, example in dict.fromkeys((cell.model, _example(cell)) for cell in cells):
        print(f"preparing {model} ...", flush=True)
        try:
            prepared = prepare(model, options.layers or None, options.results / "models", example)
        except ChildFailedError as error:
            failed += 1
            print(f"{model}: not prepared: {error}", flush=True)
            continue
        key = cell_key(prepared.saved[DECHAFF_PASSES])
        own = [cell for cell in cells if (cell.model, _example(cell)) == (model, example)]
        missing = [c for c in own if options.fresh or not _is_measured(folder, c, key)]
        print(f"{len(own)} cells, {len(own) - len(missing)} of them measured already", flush=True)
        failed += _measure_model(prepared, missing, key, until, options)
        missing_anywhere += sum(not _is_measured(folder, cell, key) for cell in own)
    print(f"{missing_anywhere} cells are still to be measured", flush=True)
    return _MISSED if failed else _DONE


def _example(cell: Cell) -> tuple[int, int]:
    """Rows and length that dechaff is shown: of single requests one of them."""
    return (1, cell.sequence) if cell.batch == 1 else EXAMPLE_SHAPE


def _measure_model(
    prepared: Prepared,
    cells: Sequence[Cell],
    key: str,
    until: float,
    options: argparse.Namespace,
) -> int:
    """Measure cells of one model, and give how many failed; the others are measured in spite."""
    failed = 0
    folder = machine_folder(options.measured, usable_cores())
    left = list(cells)
    while left:
        expected = [_expected_seconds(cell, prepared, options) for cell in left]
        if time.time() + START_SECONDS + min(expected) > until:
            return failed
        print(f"about {(START_SECONDS + sum(expected)) / 60:.0f} min for {len(left)}", flush=True)
        write_machine(folder, describe_machine())
        task = _task(left, expected, key, until, prepared, options)
        try:
            run_child("benchmarks.grid.measurement", task)
        except ChildFailedError as error:
            failed += 1
            left = [cell for cell in left if not _is_measured(folder, cell, key)]
            print(f"{left[0]}: not measured: {error}", flush=True)
            left = left[1:]
        else:
            return failed
    return failed


def _task(
    cells: Sequence[Cell],
    expected: Sequence[float],
    key: str,
    until: float,
    prepared: Prepared,
    options: argparse.Namespace,
) -> dict[str, Any]:
    return {
        "cells": [dataclasses.asdict(cell) for cell in cells],
        "expected": list(expected),
        "until": until,
        "key": key,
        "keep_sessions": prepared.parameters <= _KEPT_PARAMETERS,
        "measured": str(machine_folder(options.measured, usable_cores())),
        "threads": usable_cores(),
        "peers": options.peers,
        "rounds": options.rounds,
        "seconds": options.seconds,
    } | prepared.as_task()


def _expected_seconds(cell: Cell, prepared: Prepared, options: argparse.Namespace) -> float:
    return estimated_seconds(
        cell, prepared.parameters, options.rounds, options.seconds, usable_cores()
    )


def _is_measured(folder: pathlib.Path, cell: Cell, key: str) -> bool:
    figures = read_cell(folder, cell)
    return figures is not None and figures["key"] == key and was_alone(figures)


def write_report(measured: pathlib.Path, page: pathlib.Path) -> None:
    """Make the page and the plots from all measured cells, those of other machines too.

    Args:
        measured: a folder per machine.
        page: the Markdown file; plots lie beside it.
    """
    machines = []
    for folder in sorted(path for path in measured.glob("*") if path.is_dir()):
        cells = {c: figures for c, figures in read_cells(folder).items() if was_alone(figures)}
        findings = [find(cell, figures) for cell, figures in cells.items()]
        pictures = [page.with_name(f"results-{folder.name}.{kind}") for kind in ("png", "svg")]
        if findings and can_plot():
            plot(findings, pictures)
        figure = pictures[-1].name if pictures[-1].exists() else None
        if findings:
            machines.append(Machine(read_machine(folder), findings, figure))
    if not machines:
        print("nothing is measured yet", file=sys.stderr)
        return
    if not can_plot():
        print("no plot: pip install 'dechaff[benchmarks]' for matplotlib", file=sys.stderr)
    page.write_text(results_page(machines), encoding="utf-8")
    for machine in machines:
        print(machine.title)
        for met, text in verdicts(machine.findings):
            print(f"{'met' if met else 'MISSED'}: {text}")
    print(f"wrote {page}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=_MODELS)
    parser.add_argument("--layers", type=int, default=0, metavar="N", help="thinner models")
    parser.add_argument("--batch", nargs="+", type=int, default=_BATCHES, metavar="B")
    parser.add_argument("--sequence", nargs="+", type=int, default=_SEQUENCES, metavar="S")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=["uniform"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=_PEERS)
    parser.add_argument("--rounds", type=positive, default=7, help="the most per cell")
    parser.add_argument(
        "--seconds",
        type=float,
        default=20.0,
        help="for rounds of a cell; two in any case",
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    parser.add_argument(
        "--minutes", type=float, default=0, help="begin no cell that would take longer; 0: all"
    )
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=_HERE / "results",
        metavar="FOLDER",
        help="where models and compiled code are kept",
    )
    parser.add_argument(
        "--measured",
        type=pathlib.Path,
        default=_HERE / "measured",
        metavar="FOLDER",
        help="where figures are kept, a folder per machine",
    )
    parser.add_argument(
        "--page", type=pathlib.Path, default=_HERE / "RESULTS.md", help="what is made of them"
    )
    options = parser.parse_args(arguments)
    options.results, options.measured = options.results.resolve(), options.measured.resolve()
    options.results.mkdir(parents=True, exist_ok=True)
    options.peers = installed({*options.peers, REFERENCE, DECHAFF})
    return options


if __name__ == "__main__":
    sys.exit(main())
