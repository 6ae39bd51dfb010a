"""A small model in memory and on disk, and what is said when one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

from dechaff.frontend import from_onnx
from dechaff.ir import ExitCode, ModelRejectedError

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
example (float[B, 4] x) => (float[B, 4] y)
<float[4] w = {1, 2, 3, 4}>
{
    y = Mul (x, w)
}
"""


def proto(text: str = TEXT) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def save(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def refusal(source: Any) -> str:
    with pytest.raises(ModelRejectedError) as caught:
        from_onnx(source)
    assert caught.value.exit_code is ExitCode.MODEL_REJECTED
    message = str(caught.value)
    assert "\n" not in message
    return message
