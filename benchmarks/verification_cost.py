"""``python -m benchmarks.verification_cost``: what verification adds to the passes.

BERT-base from a saved file, in rounds of the modes off, final and each, every run in a process and
with an empty cache of its own. The bar holds for the default inputs: mode each may take as long
again as the passes.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .arguments import positive
from .child_process import ChildFailedError, child_result, child_task, run_child
from .scaling_measurement import export

_THIS = "benchmarks.verification_cost"
_MODES = ("off", "final", "each")
_NO_PASS = ("capture", "lower for cpu", "verify")
COST_BAR = 1.0

Seconds = Mapping[str, Mapping[str, float]]
"""Wall and processor seconds by step."""


class _Clocks:
    """Wall and processor time between the steps that ``optimize`` reports."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {"wall": {}, "processor": {}}
        self._step, self._since = "", self._now()

    @staticmethod
    def _now() -> dict[str, float]:
        return {"wall": time.perf_counter(), "processor": time.process_time()}

    def __call__(self, done: int, total: int, step: str) -> None:
        now = self._now()
        for clock, steps in self.seconds.items():
            steps[self._step] = steps.get(self._step, 0.0) + now[clock] - self._since[clock]
        self._step, self._since = step, now


def measure(source: str, verify: str) -> Seconds:
    """Optimize a file with an empty cache."""
    import dechaff

    clocks = _Clocks()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DECHAFF_CACHE"] = folder
        dechaff.optimize(source, verify=verify, progress=clocks)
    return clocks.seconds


def passes_and_verification(off: Seconds, mode: Seconds, clock: str) -> tuple[float, float]:
    """Seconds of the passes alone, and what a mode adds to them; one clock.

    Capture is no part of it, nor is the lowering, which times kernels on an empty cache.
    """
    passes = sum(value for step, value in off[clock].items() if step and step not in _NO_PASS)
    whole = sum(
        value
        for step, value in mode[clock].items()
        if step and (step == "verify" or step not in _NO_PASS)
    )
    return passes, whole - passes


def table(rounds: Sequence[Mapping[str, Seconds]]) -> tuple[bool, str]:
    """Whether the bar is met by the median of the rounds on the wall clock, and the figures."""
    lines = [
        "| mode | clock | passes s | verification s | share |",
        "| --- | --- |" + " ---: |" * 3,
    ]
    shares: dict[tuple[str, str], float] = {}
    for mode in _MODES[1:]:
        for clock in ("wall", "processor"):
            pairs = [passes_and_verification(item["off"], item[mode], clock) for item in rounds]
            passes, added = (statistics.median(values) for values in zip(*pairs, strict=True))
            share = statistics.median(added / passes for passes, added in pairs)
            shares[mode, clock] = share
            lines.append(f"| {mode} | {clock} | {passes:.2f} | {added:.2f} | {share:.2f} |")
    met = shares["each", "wall"] <= COST_BAR
    verdict = "met" if met else "**missed**"
    lines.append(f"\nthe bar for each, wall clock, is {COST_BAR}: {verdict}; {len(rounds)} rounds")
    return met, "\n".join(lines)


def main() -> int:
    """Measure and print; 1 if the bar is missed or something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, prog=f"python -m {_THIS}")
    parser.add_argument("--model", default="bert-base")
    parser.add_argument("--layers", type=int, metavar="N", help="its own number by default")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--source", type=pathlib.Path, help="a file that was exported before")
    given = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="verification-") as folder:
        source = given.source
        try:
            if source is None:
                task = {"name": given.model, "layers": given.layers, "opset": 18}
                source = run_child(_THIS, task | {"export_to": folder})
            for number in range(given.rounds):
                print(f"round {number + 1} of {given.rounds} ...", file=sys.stderr, flush=True)
                tasks = {mode: {"source": str(source), "verify": mode} for mode in _MODES}
                rounds.append({mode: run_child(_THIS, task) for mode, task in tasks.items()})
        except ChildFailedError as error:
            print(f"not measured: {error}", file=sys.stderr)
            return 1
    met, text = table(rounds)
    print(text)
    return 0 if met else 1


def _child() -> None:
    task = child_task()
    is_export = "export_to" in task
    child_result(export(task) if is_export else measure(task["source"], task["verify"]))


if __name__ == "__main__":
    is_child = len(sys.argv) == 3 and sys.argv[1].endswith("task.json")
    if is_child:
        _child()
    else:
        sys.exit(main())
