"""Where a decode step's attention takes the kernels that split the work over the keys."""

from __future__ import annotations

import re

import pytest
import tvm

from dechaff.backends.tvm.relax_module import to_relax
from dechaff.ir import parse

STEP = """
    <ir_version: 10, opset_import: ["": 23]>
    step (float16[B,8,1,64] q, float16[B,2,S,64] k, float16[B,2,S,64] v, bool[B,1,1,S] mask)
        => (float16[B,8,1,64] z)
    {
        y = Attention <scale = 0.125> (q, k, v, mask)
        z = Attention <scale = 0.125> (y, k, v, mask)
    }
"""


def lowered(text: str, arch: str = "sm_90") -> tuple[str, dict[str, int]]:
    found = to_relax(parse(text), "cuda", arch)
    functions = {
        name: function
        for name, function in found.module.functions.items()
        if isinstance(function, tvm.relax.Function)
    }
    return str(tvm.IRModule(functions).script()), found.kernels


def calls(text: str, kernel: str) -> int:
    return len(re.findall(rf"R\.call_tir\((?:cls\.)?{kernel}", text))


def test_a_decode_step_takes_the_kernels_and_layers_share_what_the_mask_tells() -> None:
    text, kernels = lowered(STEP)
    assert kernels == {"Attention": 2}
    assert calls(text, "decode_attention") == calls(text, "combine_attention") == 2
    assert calls(text, "cache_lengths") == 1


def test_without_a_mask_every_key_is_attended_to() -> None:
    text, kernels = lowered(STEP.replace(", mask)", ")"))
    assert kernels == {"Attention": 2}
    assert calls(text, "cache_lengths") == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("float16[B,8,1,64]", "float16[B,8,3,64]", id="several queries"),
        pytest.param("scale = 0.125", "scale = 0.125, is_causal = 1", id="causal without a past"),
        pytest.param("scale = 0.125", "scale = 0.125, softcap = 5.0", id="capped scores"),
        pytest.param("bool[B,1,1,S]", "float16[B,1,1,S]", id="a mask that is added"),
        pytest.param("bool[B,1,1,S]", "bool[B,8,1,S]", id="heads that see different keys"),
        pytest.param("float16", "float", id="float32"),
        pytest.param(",64]", ",24]", id="a size of heads that no tile has"),
    ],
)
def test_other_attention_takes_the_plain_way(old: str, new: str) -> None:
    text, _ = lowered(STEP.replace(old, new))
    assert calls(text, "decode_attention") == 0


def test_a_gpu_without_asynchronous_copies_takes_the_plain_way() -> None:
    text, _ = lowered(STEP, "sm_75")
    assert calls(text, "decode_attention") == 0
