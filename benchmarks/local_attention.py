"""``python -m benchmarks.local_attention``: the time of one attention, local and hard, packed rows.

Lengths are even on [0.2 S, S]. Printed are the times of ``hard-attention`` as shares of that of the
same attention over all keys, timed in turns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from benchmarks.inputs import Array
from benchmarks.measure import median_ratio, time_interleaved
from dechaff.backends import Session, lower
from dechaff.ir import infer_shapes, parse
from dechaff.passes import parse_pass_list, run_passes

_HEADS, _HEAD_SIZE = 12, 32
_SHAPES = ((8, 512), (4, 2048))
_RULES = ("window=32", "window=64", "window=128", "window=256", "k=64")
_ROUNDS = 5
_TEXT = """
<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>
one_attention (float[T,384] q, float[T,384] k, float[T,384] v, int64[R] starts)
    => (float[T,384] context) <int64 zero = {0}, int64 one = {1}>
{
    sizes = Shape (q)
    count = Gather <axis = 0> (sizes, zero)
    keys = Range (zero, count, one)
    context = dechaff.VarlenAttention
        <q_num_heads = 12, kv_num_heads = 12, scale = 0.17677669, is_causal = 0>
        (q, k, v, starts, keys, starts)
}
"""


def main() -> int:
    """Time all rules at all shapes; 0."""
    sessions = {"all keys": _session("")} | {rule: _session(rule) for rule in _RULES}
    print("| batch | sequence | " + " | ".join(sessions) + " |")
    print("| ---: | ---: | " + " | ".join("---:" for _ in sessions) + " |")
    for batch, sequence in _SHAPES:
        inputs = _inputs(batch, sequence)
        runs = {name: _runner(session, inputs) for name, session in sessions.items()}
        timings = time_interleaved(runs, _ROUNDS)
        shares = [f"{median_ratio(timings, name, 'all keys'):.2f}" for name in sessions]
        print(f"| {batch} | {sequence} | " + " | ".join(shares) + " |", flush=True)
    return 0


def _session(rule: str) -> Session:
    module = parse(_TEXT)
    infer_shapes(module)
    passes = f"hard-attention{{{rule}}}" if rule else "none"
    return Session(lower(run_passes(module, parse_pass_list(passes))[0]))


def _inputs(batch: int, sequence: int) -> dict[str, Array]:
    generator = np.random.default_rng(0)
    lengths = np.linspace(sequence, 0.2 * sequence, batch).round().astype(np.int64)
    shape = (int(lengths.sum()), _HEADS * _HEAD_SIZE)
    tokens = {name: generator.standard_normal(shape, np.float32) for name in "qkv"}
    return {**tokens, "starts": np.append(0, np.cumsum(lengths))}


def _runner(session: Session, inputs: dict[str, Array]) -> Callable[[], object]:
    return lambda: session.run(inputs)


if __name__ == "__main__":
    sys.exit(main())
