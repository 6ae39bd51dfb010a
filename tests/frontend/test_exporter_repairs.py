"""What exporters write wrongly runs after it is read."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from dechaff.frontend import from_onnx
from tests.model_runner import random_inputs, run_module


def rotary(cache: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[B, 2, S, 4] x, float[{cache}, S, 2] cosines, float[{cache}, S, 2] sines)
            => (float[B, 2, S, 4] y)
        {{
            y = RotaryEmbedding (x, cosines, sines)
        }}
        """
    )


def test_rotary_embeddings_get_their_angles_for_every_row() -> None:
    module = from_onnx(rotary("1"))
    inputs = random_inputs(module)
    cosines, sines = (inputs[name][:, None] for name in ("cosines", "sines"))
    first, second = np.split(inputs["x"], 2, axis=-1)
    expected = np.concatenate(
        [first * cosines - second * sines, second * cosines + first * sines], axis=-1
    )
    np.testing.assert_allclose(run_module(module, inputs)["y"], expected, rtol=1e-5, atol=1e-6)


def test_rotary_embeddings_that_are_right_stay_as_they_are() -> None:
    module = from_onnx(rotary("B"))
    assert [node.op_type for node in module.nodes()] == ["RotaryEmbedding"]


def test_a_choice_between_truth_values_runs() -> None:
    module = from_onnx(
        onnx.parser.parse_model(
            """
            <ir_version: 10, opset_import: ["" : 23]>
            g (bool[S, 1] c, bool[4] a, bool[S, 4] b) => (bool[S, 4] y, bool[S, 4] z)
            {
                y = Where (c, a, b)
                z = Not (y)
            }
            """
        )
    )
    inputs = random_inputs(module)
    found = run_module(module, inputs)
    expected = np.where(inputs["c"], inputs["a"], inputs["b"])
    np.testing.assert_array_equal(found["y"], expected)
    np.testing.assert_array_equal(found["z"], ~expected)


@pytest.mark.parametrize("shape", ["B,1,1,T", "1,T", "B,2,1,T"])
@pytest.mark.parametrize("query", ["float[B,2,S,4] q", "float[B,S,8] q"])
def test_a_mask_that_all_queries_share_is_written_out(query: str, shape: str) -> None:
    heads = "B,S,8" if "8" in query else "B,2,S,4"
    keys = heads.replace("S", "T")
    attributes = "<q_num_heads = 2, kv_num_heads = 2>" if "8" in query else ""
    module = from_onnx(
        onnx.parser.parse_model(
            f"""
            <ir_version: 10, opset_import: ["" : 23]>
            g ({query}, float[{keys}] k, float[{shape}] mask) => (float[{heads}] y)
            {{
                y = Attention {attributes} (q, k, k, mask)
            }}
            """
        )
    )
    inputs = random_inputs(module, {"B": 2, "S": 3, "T": 5})
    query_, key, value = (
        array.reshape(2, -1, 2, 4).transpose(0, 2, 1, 3) if array.ndim == 3 else array
        for array in (inputs["q"], inputs["k"], inputs["k"])
    )
    scores = query_ @ key.transpose(0, 1, 3, 2) / 2 + inputs["mask"]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ value
    if "8" in query:
        expected = expected.transpose(0, 2, 1, 3).reshape(2, 3, 8)
    np.testing.assert_allclose(run_module(module, inputs)["y"], expected, rtol=1e-5, atol=1e-6)
