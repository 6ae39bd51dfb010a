"""Dense attention runs as packed attention where nothing is masked, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from dechaff.backends.tvm.dense_attention import pack_dense_attention
from dechaff.ir import infer_shapes, parse
from tests.model_runner import random_inputs, run_module

HEADER = '<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>\n'
HEADS = "float[B,4,S,8] q, float[B,2,P,8] k, float[B,2,P,8] v"
FLAT = "float[B,S,32] q, float[B,P,16] k, float[B,P,16] v"


@pytest.mark.parametrize(
    ("inputs", "call"),
    [
        (HEADS, "Attention (q, k, v)"),
        (FLAT, "Attention <q_num_heads = 4, kv_num_heads = 2, scale = 0.5> (q, k, v)"),
        (HEADS.replace("P", "S"), "Attention <is_causal = 1> (q, k, v)"),
    ],
)
def test_attention_without_a_mask_keeps_its_numbers(inputs: str, call: str) -> None:
    module = parse(f"{HEADER} g ({inputs}) => (y) {{ y = {call} }}")
    infer_shapes(module)
    packed = module.clone()
    pack_dense_attention(packed)
    kinds = [node.op_type for node in packed.graph]
    assert "VarlenAttention" in kinds
    assert "Attention" not in kinds
    for sizes in ({"P": 7}, {"B": 1, "S": 1, "P": 1}):
        given = random_inputs(module, sizes)
        expected, actual = run_module(module, given), run_module(packed, given)
        np.testing.assert_allclose(actual["y"], expected["y"], rtol=1e-5, atol=1e-6)


MASKED = """
    g (float[B,2,3,8] q, float[B,2,3,8] k, float[B,2,3,8] v) => (y)
    <bool[1,1,3,WIDTH] mask = {VALUES}, int64[4] shape = {1, 1, 3, 3}>
    {
        wide = Expand (mask, shape)
        y = Attention (q, k, v, wide)
    }
"""


@pytest.mark.parametrize(
    ("width", "values", "kind"),
    [
        pytest.param(1, "1, 1, 1", "VarlenAttention", id="true everywhere"),
        pytest.param(3, "1, 1, 1, 1, 1, 1, 1, 1, 1", "VarlenAttention", id="true, not expanded"),
        pytest.param(1, "1, 0, 1", "Attention", id="a row is hidden"),
    ],
)
def test_a_mask_that_is_true_everywhere_is_none(width: int, values: str, kind: str) -> None:
    module = parse(HEADER + MASKED.replace("WIDTH", str(width)).replace("VALUES", values))
    infer_shapes(module)
    packed = module.clone()
    pack_dense_attention(packed)
    assert [node.op_type for node in packed.graph if "Attention" in node.op_type] == [kind]
    given = random_inputs(module, {})
    expected, actual = run_module(module, given), run_module(packed, given)
    np.testing.assert_allclose(actual["y"], expected["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "call"),
    [
        (HEADS.replace("S,8]", "1,8]"), "Attention (q, k, v)"),
        (HEADS + ", bool[S,P] mask", "Attention (q, k, v, mask)"),
        (HEADS, "Attention <softcap = 2.0> (q, k, v)"),
        (HEADS, "Attention <is_causal = 1> (q, k, v)"),
        (HEADS.replace("float[B,4,S,8]", "float[B,H,S,8]"), "Attention (q, k, v)"),
    ],
)
def test_anything_else_stays(inputs: str, call: str) -> None:
    module = parse(f"{HEADER} g ({inputs}) => (y) {{ y = {call} }}")
    infer_shapes(module)
    pack_dense_attention(module)
    assert [node.op_type for node in module.graph if "Attention" in node.op_type] == ["Attention"]
