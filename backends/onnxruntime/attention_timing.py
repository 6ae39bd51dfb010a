"""How long the kernels of ``VarlenAttention`` take on this machine: which is best depends on it."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import DOMAIN, Module, infer_shapes, parse, static_dim

from .lowering import lower
from .session import Arrays, Session
from .session_settings import SessionSettings
from .varlen_attention import AttentionKernel

_LEAST_SECONDS = 0.02
_LEAST_RUNS = 3

_ONE_ATTENTION = """
<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>
one_attention (float[T,{q_width}] q, float[T,{k_width}] k, float[T,{k_width}] v, int64[R] starts)
    => (float[T,{q_width}] context) <int64 zero = {{0}}, int64 one = {{1}}>
{{
    sizes = Shape (q)
    count = Gather <axis = 0> (sizes, zero)
    keys = Range (zero, count, one)
    context = dechaff.VarlenAttention <q_num_heads = {q_num_heads}, kv_num_heads = {kv_num_heads},
        scale = {scale}, is_causal = {is_causal}> (q, k, v, starts, keys, starts)
}}
"""


@dataclasses.dataclass(frozen=True, order=True)
class AttentionSizes:
    """What the time of an attention depends on, beside the lengths."""

    q_num_heads: int
    kv_num_heads: int
    head_size: int
    is_causal: int


def attention_sizes(module: Module) -> Counter[AttentionSizes]:
    """The attentions over packed sequences, with how often each size occurs."""
    found: Counter[AttentionSizes] = Counter()
    for node in module.nodes():
        if (node.domain, node.op_type) != (DOMAIN, "VarlenAttention"):
            continue
        width = _width(node.inputs[0])
        if width is not None:
            heads = node.attributes["q_num_heads"].as_int()
            kv_heads = node.attributes["kv_num_heads"].as_int()
            causal = node.attributes["is_causal"].as_int()
            found[AttentionSizes(heads, kv_heads, width // heads, causal)] += 1
    return found


def time_attention(
    sizes: AttentionSizes, kernel: AttentionKernel, lengths: Sequence[int], threads: int
) -> float:
    """Seconds that one attention takes: the shortest of a few runs on random numbers.

    Args:
        sizes: heads and their size.
        kernel: how it is lowered.
        lengths: tokens of each row.
        threads: threads to run on.
    """
    q_width, k_width = (n * sizes.head_size for n in (sizes.q_num_heads, sizes.kv_num_heads))
    text = _ONE_ATTENTION.format(
        **dataclasses.asdict(sizes), q_width=q_width, k_width=k_width, scale=sizes.head_size**-0.5
    )
    module = parse(text)
    infer_shapes(module)
    session = Session(lower(module, attention=kernel), settings=SessionSettings(threads=threads))
    return _shortest_run(session, _inputs(lengths, q_width, k_width))


def _inputs(lengths: Sequence[int], q_width: int, k_width: int) -> Arrays:
    generator = np.random.default_rng(0)
    widths = {"q": q_width, "k": k_width, "v": k_width}
    tokens = {
        name: generator.standard_normal((sum(lengths), width), np.float32)
        for name, width in widths.items()
    }
    return {**tokens, "starts": np.cumsum([0, *lengths], dtype=np.int64)}


def _shortest_run(session: Session, inputs: Arrays) -> float:
    session.run(inputs)
    seconds: list[float] = []
    while len(seconds) < _LEAST_RUNS or sum(seconds) < _LEAST_SECONDS:
        started = time.perf_counter()
        session.run(inputs)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _width(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None:
        return None
    return static_dim(value.shape[1])
