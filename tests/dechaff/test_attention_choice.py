from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

import dechaff.attention_choice
from dechaff.attention_choice import choose_attention
from dechaff.backends import AttentionKernel, AttentionSizes, attention_sizes, time_attention
from dechaff.ir import Module, infer_shapes, parse
from dechaff.target_lowering import attended_batch
from tests.ir.test_dialect_ops import ATTENTION, HEADER

SIZES = AttentionSizes(q_num_heads=4, kv_num_heads=2, head_size=2, is_causal=0)


def attention_module() -> Module:
    module = parse(HEADER + ATTENTION.format(q_width=8, kv_width=4, heads=4, kv_heads=2, causal=0))
    infer_shapes(module)
    return module


def test_the_sizes_of_attentions_are_found() -> None:
    assert dict(attention_sizes(attention_module())) == {SIZES: 1}


def test_a_model_without_attention_over_packed_rows_has_no_choice() -> None:
    module = parse(HEADER + "g (float[B,S,4] x) => (float[B,S,4] y) { y = Relu (x) }")
    assert choose_attention(module, 2, 3, threads=1) is None


@pytest.mark.parametrize(
    ("rows", "padded", "chosen"), [(2.0, 1.0, "padded"), (1.0, 2.0, "rows"), (1.0, 0.95, "rows")]
)
def test_the_faster_kernel_is_chosen_if_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, rows: float, padded: float, chosen: str
) -> None:
    asked: list[Sequence[int]] = []

    def timing(_: AttentionSizes, kernel: str, lengths: Sequence[int], threads: int) -> float:
        asked.append(lengths)
        return {"rows": rows, "padded": padded}[kernel] * 1e-3

    monkeypatch.setattr(dechaff.attention_choice, "time_attention", timing)
    choice = choose_attention(attention_module(), 3, 10, threads=1, use_cache=False)
    assert choice is not None
    assert choice.kernel == chosen
    assert f"{rows:.2f} ms" in choice.reason
    assert f"{padded:.2f} ms" in choice.reason
    assert asked == [[10, 6, 2], [10, 6, 2]]


@pytest.mark.parametrize(
    ("mask", "shape", "expected"),
    [
        ("pieces", "bool[B * P, S]", (6, 5)),
        ("pieces", "bool[U, V]", (16, 128)),
        ("mask", "bool[B, P, S]", (16, 128)),
    ],
)
def test_rows_are_those_of_the_mask_that_tells_padding(
    mask: str, shape: str, expected: tuple[int, int]
) -> None:
    module = parse(
        HEADER
        + """g (bool[B,P,S] mask, int64[2] sizes) => (int64[T] token_index)
        {
            pieces = Reshape (mask, sizes)
            token_index, starts, positions = dechaff.TokenLayout (MASK)
        }""".replace("MASK", mask)
    )
    dims = shape[shape.index("[") + 1 : -1].split(",")
    layout = next(node for node in module.graph if node.op_type == "TokenLayout")
    given = layout.inputs[0]
    assert given is not None
    given.shape = ir.Shape([dim.strip() for dim in dims])
    example = {"mask": np.ones((2, 3, 5), bool)}
    assert attended_batch(module, module, example) == expected


def test_times_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def timing(_: AttentionSizes, kernel: str, lengths: Sequence[int], threads: int) -> float:
        calls.append(kernel)
        return 1.0

    monkeypatch.setattr(dechaff.attention_choice, "time_attention", timing)
    module = attention_module()
    first = choose_attention(module, 5, 321, threads=1)
    assert choose_attention(module, 5, 321, threads=1) == first
    assert calls == ["rows", "padded"]
    choose_attention(module, 6, 321, threads=1)
    assert calls == ["rows", "padded"] * 2


@pytest.mark.parametrize("kernel", ["rows", "padded"])
@pytest.mark.parametrize("causal", [0, 1])
def test_each_kernel_can_be_timed(kernel: AttentionKernel, causal: int) -> None:
    assert time_attention(AttentionSizes(4, 2, 2, causal), kernel, [5, 3, 1], threads=1) > 0
