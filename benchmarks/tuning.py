"""A dense layer with GELU on the CPU: TVM's default schedule beside the tuned one.

``python -m benchmarks.tuning --trials 64`` tunes into a fresh log, compiles the same graph without
it, with its schedules, and with its choice between these and a library, compares all with ONNX
Runtime, and times them in turn, within one process. ``--output FILE.md`` writes a table.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import onnx_ir as ir

import dechaff
from benchmarks.arguments import positive
from benchmarks.machine import describe_machine
from benchmarks.measure import median_ratio, time_interleaved
from dechaff.backends import Session
from dechaff.backends.tvm import choose_products, compile_module, resolve_target
from dechaff.ir import Module, parse

_TEXT = """
<ir_version: 10, opset_import: ["" : 23]>
dense (float[T,{width}] x) => (float[T,{inner}] y)
{{
    product = MatMul (x, weight)
    sum = Add (product, bias)
    y = Gelu (sum)
}}
"""


def dense_gelu(width: int, inner: int) -> Module:
    """``Gelu(x @ weight + bias)`` with seeded random weights."""
    generator = np.random.default_rng(0)
    text = _TEXT.format(width=width, inner=inner).replace(
        "dense (", f"dense (float[{width},{inner}] weight, float[{inner}] bias, ", 1
    )
    module = parse(text)
    scale = width**-0.5
    for name, shape in (("weight", (width, inner)), ("bias", (inner,))):
        value = next(value for value in module.graph.inputs if value.name == name)
        module.graph.inputs.remove(value)
        array = (generator.standard_normal(shape) * scale).astype(np.float32)
        value.const_value = ir.Tensor(array, name=name)
        module.graph.register_initializer(value)
    return module


def main() -> None:
    """Tune, compile with and without the log, compare and time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=256, help="rows the layer is tuned at")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--inner", type=int, default=3072)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--log", type=pathlib.Path, help="keep the log, or go on with it")
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE.md", help="write a table")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args()
    tvm_version = importlib.metadata.version("apache-tvm")
    module = dense_gelu(options.width, options.inner)
    sizes = {"T": options.tokens}
    with tempfile.TemporaryDirectory() as folder:
        log = options.log or pathlib.Path(folder)
        started = time.perf_counter()
        dechaff.tune(module.model, target="llvm", log=log, trials=options.trials, sizes=sizes)
        tuning_seconds = time.perf_counter() - started
        target = resolve_target("llvm")
        untuned = compile_module(module, target)
        tuned = compile_module(module, target, tuning_log=log, sizes=sizes)
        chosen = choose_products(module, target, sizes=sizes, tuning_log=log)
        as_measured = compile_module(module, target, tuning_log=log, sizes=sizes, products=chosen)
    session = Session(module)
    generator = np.random.default_rng(1)
    rows = []
    for tokens in (options.tokens, options.tokens * 2 - 3):
        x = generator.standard_normal((tokens, options.width)).astype(np.float32)
        expected = session.run({"x": x})["y"]
        runs = {
            "untuned": untuned.run,
            "tuned": tuned.run,
            "as the log chose": as_measured.run,
            "ONNX Runtime": session.run,
        }
        errors = {
            name: float(np.abs(run({"x": x})["y"] - expected).max()) for name, run in runs.items()
        }
        calls = {name: functools.partial(run, {"x": x}) for name, run in runs.items()}
        timings = time_interleaved(calls, options.rounds)
        ratio = median_ratio(timings, "untuned", "tuned")
        rows.append({"tokens": tokens, "seconds": timings, "ratio": ratio, "errors": errors})
        for name, seconds in timings.items():
            milliseconds = 1000 * statistics.median(seconds)
            print(f"{tokens} rows: {name}: {milliseconds:.2f} ms, error {errors[name]:.1e}")
        print(f"{tokens} rows: tuned is {ratio:.1f} times as fast as untuned")
    machine = ", ".join(describe_machine().values())
    choice = "a library's product" if as_measured.library_calls else "generated code"
    closing = (
        f"{options.trials} measurements in the log, {tuning_seconds:.0f} s of this run to tune; "
        f"the log chose {choice}. {machine}; TVM {tvm_version}."
    )
    print(closing)
    if options.output is not None:
        options.output.write_text(_table(options, rows, closing))
    if options.json is not None:
        figures = {"machine": describe_machine(), "tuning_seconds": tuning_seconds, "rows": rows}
        options.json.write_text(json.dumps(figures, indent=2))


def _table(options: argparse.Namespace, rows: list[dict[str, Any]], closing: str) -> str:
    text = (
        "# Tuning on the CPU\n\nWritten by `python -m benchmarks.tuning`: `Gelu(x W + b)`,"
        f" float32, W: [{options.width}, {options.inner}], tuned at {options.tokens} rows;"
        " medians of "
        f"{options.rounds} interleaved rounds, in milliseconds. *untuned* is what dechaff compiles"
        " without a log.\n\n"
        "| rows | untuned | tuned | as the log chose | ONNX Runtime | tuned over untuned |\n"
        "|---|---|---|---|---|---|\n"
    )
    for row in rows:
        times = [f"{1000 * statistics.median(seconds):.2f}" for seconds in row["seconds"].values()]
        text += f"| {row['tokens']} | {' | '.join(times)} | {row['ratio']:.1f}x |\n"
    return f"{text}\n{closing}\n"


if __name__ == "__main__":
    main()
