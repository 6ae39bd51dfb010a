"""``python -m benchmarks.grid``: dechaff and its peers over models, batches, lengths.

Cells that are measured already are skipped, so that an interrupted grid goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.child_process import ChildFailedError, run_child
from benchmarks.inputs import LENGTHS
from benchmarks.models import ARCHITECTURES
from benchmarks.peers import DECHAFF, LIMIT, PEERS, REFERENCE, installed
from benchmarks.prepared import Prepared, code_digest, prepare
from dechaff.backends.onnxruntime.threads import usable_cores

from .cells import Cell, estimated_seconds, grid_cells, read_cell, read_cells, write_cell
from .findings import Finding, find, verdicts
from .pages import results_page
from .plot import can_plot, plot

_HERE = pathlib.Path(__file__).resolve().parent.parent
_MODELS = ("minilm", "distilbert", "bert-base", "bert-large", "modernbert")
_BATCHES = (1, 4, 16, 32)
_SEQUENCES = (32, 64, 128, 256, 384, 512)
_PEERS = (REFERENCE, "torch-compile", "openvino", "ort18", "ort18-fused", "ort23", DECHAFF, LIMIT)
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
    write_report(options.results, publish_to=_HERE if options.publish else None)
    return status


def _measure_missing(options: argparse.Namespace) -> int:
    cells = grid_cells(
        options.models, options.layers, options.lengths, options.batch, options.sequence
    )
    digest, folder = code_digest(), options.results / "cells"
    missing = [c for c in cells if options.fresh or not _is_measured(folder, c, digest)]
    print(f"{len(cells)} cells, {len(cells) - len(missing)} of them measured already", flush=True)
    prepared = _prepare_models(options, list(dict.fromkeys(cell.model for cell in missing)))
    expected = {
        cell: estimated_seconds(
            cell,
            prepared[cell.model].parameters,
            options.rounds,
            options.seconds,
            usable_cores(),
        )
        for cell in missing
        if cell.model in prepared
    }
    failed = len(missing) - len(expected)
    print(f"about {sum(expected.values()) / 60:.0f} min to go", flush=True)
    spent = 0.0
    for index, cell in enumerate(expected):
        started = time.perf_counter()
        try:
            figures = _measure(cell, prepared[cell.model], options)
        except ChildFailedError as error:
            failed += 1
            print(f"{cell}: not measured: {error}", flush=True)
            continue
        write_cell(folder, cell, figures | {"code": digest})
        spent += time.perf_counter() - started
        pace = spent / sum(list(expected.values())[: index + 1])
        left = pace * sum(list(expected.values())[index + 1 :])
        place = f"[{index + 1}/{len(expected)}]"
        print(f"{place} {_line(find(cell, figures))}; {left / 60:.0f} min left", flush=True)
    return _MISSED if failed else _DONE


def _is_measured(folder: pathlib.Path, cell: Cell, digest: str) -> bool:
    figures = read_cell(folder, cell)
    return figures is not None and figures["code"] == digest


def _prepare_models(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Prepared]:
    prepared: dict[str, Prepared] = {}
    for name in names:
        print(f"preparing {name} ...", flush=True)
        try:
            prepared[name] = prepare(name, options.layers or None, options.results / "models")
        except ChildFailedError as error:
            print(f"{name}: not prepared: {error}", flush=True)
    return prepared


def _measure(cell: Cell, prepared: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    task = {
        "cell": dataclasses.asdict(cell),
        "threads": usable_cores(),
        "peers": options.peers,
        "rounds": options.rounds,
        "seconds": options.seconds,
    } | prepared.as_task()
    figures: dict[str, Any] = run_child("benchmarks.grid.measurement", task)
    return figures


def _line(finding: Finding) -> str:
    limit = "" if finding.limit_share is None else f", {finding.limit_share:.2f} of the limit"
    return (
        f"{finding.cell}: {finding.milliseconds:.1f} ms, {finding.speedup:.2f}x of "
        f"{finding.best}{limit}, error {finding.error:.0e}, {finding.figures['rounds']} rounds, "
        f"{finding.figures['seconds']:.0f} s"
    )


def write_report(results: pathlib.Path, publish_to: pathlib.Path | None) -> None:
    """Write all measured cells as JSON, Markdown and plot; and where they are published, if so."""
    cells = read_cells(results / "cells")
    findings = [find(cell, figures) for cell, figures in cells.items()]
    if not findings:
        print("nothing is measured yet", file=sys.stderr)
        return
    (results / "results.json").write_text(json.dumps(list(cells.values()), indent=1))
    pictures = [results / "results.png", results / "results.svg"]
    if can_plot():
        plot(findings, pictures)
    else:
        print("no plot: pip install 'dechaff[benchmarks]' for matplotlib", file=sys.stderr)
        pictures = []
    figure = pictures[-1].name if pictures else None
    (results / "results.md").write_text(results_page(findings, figure), encoding="utf-8")
    for met, text in verdicts(findings):
        print(f"{'met' if met else 'MISSED'}: {text}")
    print(f"wrote {results / 'results.md'}")
    if publish_to is not None:
        shutil.copy(results / "results.md", publish_to / "RESULTS.md")
        for picture in pictures:
            shutil.copy(picture, publish_to / picture.name)
        print(f"published {publish_to / 'RESULTS.md'}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=_MODELS)
    parser.add_argument("--layers", type=int, default=0, metavar="N", help="thinner models")
    parser.add_argument("--batch", nargs="+", type=int, default=_BATCHES, metavar="B")
    parser.add_argument("--sequence", nargs="+", type=int, default=_SEQUENCES, metavar="S")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=["uniform"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=_PEERS)
    parser.add_argument("--rounds", type=int, default=7, help="the most per cell")
    parser.add_argument(
        "--seconds",
        type=float,
        default=20.0,
        help="for rounds of a cell; two in any case",
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    parser.add_argument("--publish", action="store_true", help="write benchmarks/RESULTS.md")
    parser.add_argument("--results", type=pathlib.Path, default=_HERE / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    options.results = options.results.resolve()
    options.results.mkdir(parents=True, exist_ok=True)
    options.peers = installed({*options.peers, REFERENCE, DECHAFF})
    return options


if __name__ == "__main__":
    sys.exit(main())
