"""What exporters write wrongly runs after it is read."""

from __future__ import annotations

import numpy as np
import onnx.parser

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
