"""``python -m benchmarks.scaling``: what optimizing costs, by the number of layers.

Seconds of capture and of every pass, and peak memory, each depth in a process of its own; of
``--rounds`` such runs, depths in turns, the fastest, which other work on the machine slowed least.
With ``--files``, the same depths from saved ONNX files, verification included. With ``--file``,
BERT-base from such a file. With ``--large``, a model of more than 2 GB from file to file; its peak
memory is held against its weights.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .arguments import positive
from .child_process import ChildFailedError, run_child
from .machine import describe_machine, versions
from .models import ARCHITECTURES

_HERE = pathlib.Path(__file__).resolve().parent
_CHILD = "benchmarks.scaling_measurement"
_DEPTHS = (6, 12, 24, 48, 96)
_LINEAR_FROM = 12
_FEWEST_DEPTHS_FOR_A_LINE = 3
LINEAR_BAR = 1.2
"""Largest over smallest time per layer."""
FILE_SECONDS = 20.0
MEMORY_BAR = 1.5
"""Peak memory over bytes of weights."""
_DONE, _MISSED, _INTERRUPTED = 0, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print tables in Markdown.

    Returns:
        0; 1 if a bar is missed or something could not be measured; 130 if interrupted.
    """
    options = _parse(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        parts = [_from_torch(options)] if options.layers else []
        parts += [_from_files(options)] if options.layers and options.files else []
        parts += [_from_file(options)] if options.file else []
        parts += [_large(options)] if options.large else []
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except ChildFailedError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return _MISSED
    text = "\n\n".join(part for _, part in parts)
    (options.results / "scaling.md").write_text(text + "\n", encoding="utf-8")
    if options.page is not None:
        options.page.write_text(page(text), encoding="utf-8")
    print(text)
    return _DONE if all(met for met, _ in parts) else _MISSED


def page(tables: str) -> str:
    """The tables with the machine and the versions that they hold for."""
    facts = [*describe_machine().items(), *versions().items()]
    return (
        "# What optimizing costs\n\nWritten by `python -m benchmarks.scaling --page FILE`; each "
        "depth and each file in a process of its own. Of several runs of a depth, in turns with "
        "the others, the fastest stands here.\n\n"
        f"{tables}\n\n{', '.join(f'{name}: {value}' for name, value in facts)}\n"
    )


def _from_torch(options: argparse.Namespace) -> tuple[bool, str]:
    tasks = {
        layers: {"name": options.model, "layers": layers, "verify": "off"}
        for layers in options.layers
    }
    figures = _fastest(tasks, options, "scaling.json")
    return depth_table(f"{options.model}, capture from torch and optimize", figures)


def _from_files(options: argparse.Namespace) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory(prefix="scaling-", dir=options.results) as folder:
        files = {
            layers: str(_make_file(options.model, layers, pathlib.Path(folder) / str(layers)))
            for layers in (1, *options.layers)
        }
        tasks = {
            layers: {"source": files[layers], "before": files[1], "verify": "final"}
            for layers in options.layers
        }
        figures = _fastest(tasks, options, "scaling-files.json")
    return depth_table(f"{options.model}, from file to file with verification", figures)


def _fastest(
    tasks: Mapping[int, dict[str, Any]], options: argparse.Namespace, file: str
) -> dict[int, Any]:
    """Run the tasks in turns, and of each keep the fastest run; they are written to the file."""
    runs: dict[int, list[Any]] = {layers: [] for layers in tasks}
    for _ in range(options.rounds):
        for layers, task in tasks.items():
            print(f"{options.model} of {layers} layers ...", file=sys.stderr, flush=True)
            runs[layers].append(run_child(_CHILD, task))
            print(f"  {runs[layers][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    figures = {
        layers: min(found, key=lambda run: float(run["seconds"])) for layers, found in runs.items()
    }
    (options.results / file).write_text(json.dumps(figures, indent=1))
    return figures


def depth_table(title: str, figures: Mapping[int, Any]) -> tuple[bool, str]:
    """Whether time grows with the layers, and a row per step with seconds at each depth."""
    spread = layer_spread(figures)
    met = spread <= LINEAR_BAR
    steps = list(dict.fromkeys(step for item in figures.values() for step in item["steps"]))
    per_layer = [1000 * item["seconds"] / layers for layers, item in figures.items()]
    lines = [
        f"*{title}, seconds; time per layer from {_LINEAR_FROM} layers on differs by a factor of "
        f"{spread:.2f}, the bar is {LINEAR_BAR}: {'met' if met else '**missed**'}*",
        *_fixed_and_growing(figures),
        "",
        "| | " + " | ".join(f"{layers} layers" for layers in figures) + " |",
        "| --- |" + " ---: |" * len(figures),
        *(
            _row(step, [f"{item['steps'].get(step, 0.0):.2f}" for item in figures.values()])
            for step in steps
        ),
        _row(
            "one layer before, cold", [f"{item['cold_seconds']:.2f}" for item in figures.values()]
        ),
        _row("all", [f"{item['seconds']:.2f}" for item in figures.values()]),
        _row("ms per layer", [f"{milliseconds:.0f}" for milliseconds in per_layer]),
        _row("peak MiB", [f"{item['peak_bytes'] / 2**20:.0f}" for item in figures.values()]),
    ]
    return met, "\n".join(lines)


def _fixed_and_growing(figures: Mapping[int, Any]) -> list[str]:
    """What does not depend on the layers, and what each layer adds, by least squares."""
    if len(figures) < _FEWEST_DEPTHS_FOR_A_LINE:
        return []
    depths = np.array(list(figures), float)
    seconds = np.array([item["seconds"] for item in figures.values()])
    slope, fixed = np.polyfit(depths, seconds, 1, w=1 / seconds)
    off = np.abs((fixed + slope * depths) / seconds - 1).max()
    return [
        "",
        f"{fixed:.2f} s at any depth and {1000 * slope:.0f} ms for each layer tell these times to "
        f"within {100 * off:.0f} %",
    ]


def layer_spread(figures: Mapping[int, Any]) -> float:
    """Largest over smallest time per layer, shallow models left out; 1 if there are not two."""
    times = [item["seconds"] / layers for layers, item in figures.items() if layers >= _LINEAR_FROM]
    return max(times) / min(times) if times else 1.0


def _row(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _from_file(options: argparse.Namespace) -> tuple[bool, str]:
    return _file_to_file(options, "bert-base", None, "final")


def _large(options: argparse.Namespace) -> tuple[bool, str]:
    return _file_to_file(options, options.large_model, options.large_layers, "off")


def _file_to_file(
    options: argparse.Namespace, name: str, layers: int | None, verify: str
) -> tuple[bool, str]:
    """Export a model in a process, optimize the file in another, and say what that took."""
    with tempfile.TemporaryDirectory(prefix="scaling-", dir=options.results) as folder:
        source = _make_file(name, layers, pathlib.Path(folder))
        weights = sum(file.stat().st_size for file in source.parent.iterdir())
        print(f"optimizing {weights / 1e9:.2f} GB ...", file=sys.stderr, flush=True)
        found = run_child(_CHILD, {"source": str(source), "verify": verify})
    return file_lines(name, weights, verify, found)


def _make_file(name: str, layers: int | None, folder: pathlib.Path) -> pathlib.Path:
    depth = "" if layers is None else f" of {layers} layers"
    print(f"making {name}{depth} ...", file=sys.stderr, flush=True)
    folder.mkdir(exist_ok=True)
    made = {"name": name, "layers": layers, "export_to": str(folder), "opset": 18}
    return pathlib.Path(run_child(_CHILD, made))


def file_lines(name: str, weights: int, verify: str, found: Any) -> tuple[bool, str]:
    """Whether the bar is met, and the figures: time if verified, else memory."""
    share = found["peak_bytes"] / weights
    if verify == "off":
        met, bar = share < MEMORY_BAR, f"the bar is {MEMORY_BAR} times the weights"
    else:
        met, bar = found["seconds"] < FILE_SECONDS, f"the bar is {FILE_SECONDS:.0f} s"
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in found["steps"].items())
    return met, (
        f"*{name} from file to file, {weights / 1e9:.2f} GB, verification {verify}: "
        f"{found['seconds']:.1f} s, peak {found['peak_bytes'] / 2**20:.0f} MiB, {share:.2f} times "
        f"the weights; {bar}: {'met' if met else '**missed**'}*\n\nseconds by step: {steps}"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--model", choices=ARCHITECTURES, default="bert-narrow")
    parser.add_argument("--layers", nargs="*", type=int, default=_DEPTHS, metavar="N")
    parser.add_argument("--rounds", type=positive, default=2, help="runs of each depth")
    parser.add_argument("--files", action="store_true", help="the depths from saved files as well")
    parser.add_argument("--file", action="store_true", help="BERT-base from a saved file, verified")
    parser.add_argument("--large", action="store_true", help="more than 2 GB, from file to file")
    parser.add_argument("--large-model", choices=ARCHITECTURES, default="bert-wide")
    parser.add_argument("--large-layers", type=int, metavar="N", help="its own number by default")
    parser.add_argument("--page", type=pathlib.Path, metavar="FILE", help="tables and machine")
    parser.add_argument("--results", type=pathlib.Path, default=_HERE / "results", metavar="FOLDER")
    options = parser.parse_args(arguments)
    options.results = options.results.resolve()
    options.results.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
