"""How fast an optimized model is beside its original, both on ONNX Runtime at its best."""

from __future__ import annotations

import os
import re

import numpy as np
import onnx_ir as ir

from benchmarks.measure import median_ratio, time_interleaved
from dechaff.arrays import Array, Arrays
from dechaff.backends import Session, SessionSettings
from dechaff.ir import DechaffError, Module
from dechaff.settings import Settings
from dechaff.target_lowering import lower_for_target

ROUNDS = 7
_TIMES = ((5, 8), (5, 1), (1, 1))
"""Batch and sequence are enlarged so many times; less where a model has fewer positions."""
_SHORTEST = 0.2
"""Lengths are spread evenly from this share of the padded length to all of it."""
_SEQUENCES = re.compile(r"^(decoder_|other_)?sequence$")


def measure_speed(original: Module, optimized: Module, inputs: Arrays) -> float | None:
    """The original's time over the optimized model's: the median over interleaved rounds.

    Args:
        original: as it was imported; ONNX Runtime optimizes it as far as it can.
        optimized: after the passes; it is lowered as ``optimize`` does it, which chooses kernels.
        inputs: small ones that fit; they are repeated to a batch and a length worth timing.

    Returns:
        The ratio, above 1 where dechaff is faster; None if one of them does not run.
    """
    try:
        sessions = {"original": Session(original, graph_optimizations=True)}
        larger = _largest(original, inputs, sessions["original"])
        threads = SessionSettings()
        lowered = lower_for_target(optimized, original, Settings(), larger, threads)
        sessions["optimized"] = Session(lowered.module, graph_optimizations=True)
        runs = {
            name: (lambda session=session: session.run(larger))
            for name, session in sessions.items()
        }
        return median_ratio(time_interleaved(runs, ROUNDS, warm_up=2), "original", "optimized")
    except DechaffError:
        return None


def _largest(original: Module, inputs: Arrays, session: Session) -> Arrays:
    """The inputs as large as the original runs them."""
    for batch, sequence in _TIMES:
        larger = enlarged(original, inputs, batch, sequence)
        try:
            session.run(larger)
        except DechaffError:
            continue
        return larger
    return inputs


def enlarged(module: Module, inputs: Arrays, batch: int, sequence: int) -> Arrays:
    """The inputs repeated so many times along batch and sequence; masks of ragged lengths."""
    symbols = {_name(dim) for value in module.graph.inputs for dim in value.shape or ()}
    grows = "past" not in symbols  # a step's lengths hang together, and its work is one token's
    larger: Arrays = {}
    for value in module.graph.inputs:
        array = inputs[value.name or ""]
        times = [_times(_name(dim), batch, sequence if grows else 1) for dim in value.shape or ()]
        array = np.tile(array, times)
        if "mask" in (value.name or "") and array.ndim == 2 and grows:
            array = _ragged(array)
        larger[value.name or ""] = array
    return larger


def _name(dim: int | ir.SymbolicDim) -> str:
    return "" if isinstance(dim, int) else dim.value or ""


def _times(symbol: str, batch: int, sequence: int) -> int:
    if symbol == "batch":
        return batch
    return sequence if _SEQUENCES.match(symbol) else 1


def _ragged(mask: Array) -> Array:
    rows, length = mask.shape
    lengths = np.linspace(_SHORTEST * length, length, rows).round()
    return (np.arange(length) < lengths[:, None]).astype(mask.dtype)


def machine_state() -> str:
    """What else ran, in words for beside a figure of time."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return f"{cores} cores, load average {load:.1f} before the first timing"
