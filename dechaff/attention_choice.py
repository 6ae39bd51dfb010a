"""Which kernel attends to packed sequences: the one that takes less time on this machine."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import numpy as np

from dechaff.backends import (
    AttentionKernel,
    AttentionSizes,
    attention_sizes,
    machine_name,
    time_attention,
)
from dechaff.ir import Module

from .cache import cached
from .versions import package_versions

_LEAST_GAIN = 0.9
"""``padded`` is chosen below this share of the time of ``rows``: its time grows with the longest
row, so that it must win clearly; and a choice within the noise would change from run to run."""

_SHORTEST = 0.2


@dataclasses.dataclass(frozen=True)
class AttentionChoice:
    """The kernel, and a line that says why."""

    kernel: AttentionKernel
    reason: str


def choose_attention(
    module: Module, batch: int, sequence: int, threads: int, *, use_cache: bool = True
) -> AttentionChoice | None:
    """Time both kernels for the attentions of a module, at lengths even on [0.2 S, S].

    Args:
        module: a module before lowering.
        batch: rows, B.
        sequence: the padded length, S.
        threads: threads that the model will run on.
        use_cache: whether times measured earlier on this machine will do.

    Returns:
        None if the module has no attention over packed sequences.
    """
    wanted = attention_sizes(module)
    if not wanted:
        return None
    rows, padded = (
        _total(wanted, kernel, batch, sequence, threads, use_cache) for kernel in ("rows", "padded")
    )
    kernel: AttentionKernel = "padded" if padded < _LEAST_GAIN * rows else "rows"
    layers = wanted.total()
    return AttentionChoice(
        kernel,
        f"attention over packed rows: {kernel}; measured at B={batch}, S={sequence} on {threads} "
        f"threads, rows one by one take {1e3 * rows / layers:.2f} ms a layer, padded to the "
        f"longest {1e3 * padded / layers:.2f} ms",
    )


def _total(
    wanted: Counter[AttentionSizes],
    kernel: AttentionKernel,
    batch: int,
    sequence: int,
    threads: int,
    use_cache: bool,
) -> float:
    lengths = np.linspace(sequence, _SHORTEST * sequence, batch).round().astype(int)
    at_least_one = [max(1, int(length)) for length in lengths]
    total = 0.0
    for sizes, count in sorted(wanted.items()):
        key = {
            "measured": "attention",
            "kernel": kernel,
            "sizes": dataclasses.asdict(sizes),
            "lengths": at_least_one,
            "threads": threads,
            "machine": machine_name(),
            "onnxruntime": package_versions()["onnxruntime"],
        }
        measure = functools.partial(time_attention, sizes, kernel, at_least_one, threads)
        total += count * float(cached(key, measure, use=use_cache))
    return total
