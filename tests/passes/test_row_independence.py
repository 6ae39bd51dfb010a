"""A batch may be run in parts only where the graph shows that its rows never meet."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dechaff.calibration import Calibration
from dechaff.ir import Module
from dechaff.passes import PassContext, run_passes
from dechaff.passes.matching import is_packed_attention
from dechaff.passes.quantize_static import QuantizeStatic
from dechaff.passes.quantize_weights import QuantizeWeights, QuantizeWeightsOptions
from dechaff.passes.row_independence import rows_are_independent
from dechaff.passes.skip_unread_rows import SkipUnreadRows
from tests.passes.rewrite_checks import run_pass
from tests.passes.test_remove_padding import STATES, layer, random_states, remove_padding

POOLED = "p = Gather <axis = 1> (r, first)"
OF_INPUT = "q = Gather <axis = 1> (x, first)"
LOOKED_UP = {
    "float[B,S,4] x": "int64[B,S] ids",
    "<float[4] gamma": "<float[9,4] table = {...}, float[4] gamma",
    "n = Layer": "x = Gather (table, ids) n = Layer",
}


@pytest.mark.parametrize(
    ("after", "outputs"),
    [
        ("y = Relu (r)", STATES),
        (f"{POOLED} y = Tanh (p)", "float[B,4] y"),
        (f"{POOLED} y = MatMul (p, w)", "float[B,4] y"),
        ("y = Relu (r) z = Softmax <axis = 2> (y)", f"{STATES}, float[B,S,4] z"),
        ("size = Shape (r) y = Reshape (r, size)", STATES),
    ],
)
def test_rows_that_never_meet_are_independent(after: str, outputs: str) -> None:
    _, packed, _ = remove_padding(layer(after, outputs))
    assert any(map(is_packed_attention, packed.graph))
    assert rows_are_independent(packed)
    one_token, record = run_pass(SkipUnreadRows(), packed)
    assert record.changed == (POOLED in after)
    assert rows_are_independent(one_token)


@pytest.mark.parametrize(
    ("after", "outputs"),
    [
        (f"{POOLED} y = Softmax <axis = 0> (p)", "float[B,4] y"),
        (f"y = Relu (r) {OF_INPUT} z = Gemm <transB = 1> (q, q)", f"{STATES}, float[B,B] z"),
        (f"y = Relu (r) {OF_INPUT} z = Transpose (q)", f"{STATES}, float[4,B] z"),
        (f"y = Relu (r) {OF_INPUT} z = GatherND (q, ends)", f"{STATES}, float z"),
        (f"{POOLED} t = Gather <axis = 0> (p, first) y = Add (p, t)", "float[B,4] y"),
        (f"{POOLED} y = CumSum (p, nothing)", "float[B,4] y"),
        (
            f"{POOLED} size = Shape <end = 1> (p) m = Cast <to = 1> (size) y = Div (p, m)",
            "float[B,4] y",
        ),
        ("size = Shape <start = 0, end = 1> (r) y = Relu (r)", f"{STATES}, int64[1] size"),
    ],
)
def test_rows_that_meet_are_not(after: str, outputs: str) -> None:
    _, packed, _ = remove_padding(layer(after, outputs))
    assert any(map(is_packed_attention, packed.graph))
    assert not rows_are_independent(packed)


def test_rows_that_meet_do_so_at_one_position_too() -> None:
    after = "y = Relu (r) m = Softmax <axis = 0> (x) z = Gather <axis = 1> (m, first)"
    _, packed, _ = remove_padding(layer(after, f"{STATES}, float[B,4] z"))
    one_token, record = run_pass(SkipUnreadRows(), packed)
    assert record.changed
    assert any(map(is_packed_attention, one_token.graph))
    assert not rows_are_independent(one_token)


def test_an_input_that_all_rows_share_keeps_them_together() -> None:
    _, packed, _ = remove_padding(layer("y = Mul (r, s)", inputs=", float[4] s"))
    assert any(map(is_packed_attention, packed.graph))
    assert not rows_are_independent(packed)


def test_a_model_that_is_not_packed_is_not_judged() -> None:
    before, _, _ = remove_padding(layer())
    assert not rows_are_independent(before)


def rounded() -> Module:
    """A layer whose activations are rounded, with one scale for all rows."""
    _, packed, _ = remove_padding(layer())
    keep = np.ones((2, 3), bool)
    data = Calibration([{"x": random_states(keep), "mask": keep}], "test")
    after, _ = run_passes(packed.clone(), [QuantizeStatic()], context=PassContext(data))
    return after


@pytest.mark.parametrize(("axis", "is_independent"), [(None, True), (1, True), (0, False)])
def test_rounded_rows_stay_apart_unless_each_has_a_scale(
    axis: int | None, is_independent: bool
) -> None:
    module = rounded()
    roundings = [node for node in module.graph if node.op_type == "QuantizeLinear"]
    assert roundings
    for node in roundings if axis is not None else ():
        scale = ir.tensor(np.ones(1, np.float32), name="scale_of_axis")
        value = ir.Value(name="scale_of_axis", const_value=scale, shape=ir.Shape([1]))
        node.replace_input_with(1, value)
        node.attributes["axis"] = ir.AttrInt64("axis", axis or 0)
    assert rows_are_independent(module) == is_independent


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_tables_in_few_bits_come_with_their_scales(bits: int) -> None:
    text = layer()
    for old, new in LOOKED_UP.items():
        text = text.replace(old, new, 1)
    _, packed, _ = remove_padding(text)
    assert any(map(is_packed_attention, packed.graph))
    step = QuantizeWeights(QuantizeWeightsOptions(embeddings=bits, exclude="*"))
    after, _ = run_passes(packed, [step])
    used = {node.op_type for node in after.graph}
    assert ("Int4Gather" if bits == 4 else "DequantizeLinear") in used
    assert rows_are_independent(after)
