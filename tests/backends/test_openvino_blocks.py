"""Weights and tables of few bits in OpenVINO."""

from __future__ import annotations

import numpy as np
import pytest

from dechaff.backends import OpenVinoSession, Session, lower
from dechaff.backends.openvino.blocks import restore_blocks
from dechaff.passes import Rewriter
from tests.model_runner import Array
from tests.passes.rewrite_checks import module_from, relative_error
from tests.passes.test_quantize_weights import TABLE, correlated, quantized, two_layers

ROWS = """g (int8[R,8] q, float[R,2] scale) => (float[R,8] y)
    {{ y = DequantizeLinear <{attributes}> ({operands}) }}"""


@pytest.mark.parametrize("group", [0, 16])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_tables_are_restored_exactly(bits: int, group: int) -> None:
    after = quantized(module_from(TABLE), embeddings=bits, group=group)
    inputs = {"ids": np.array([[0, 8], [3, 3]]), "more": np.arange(9)}
    expected = Session(after, graph_optimizations=False).run(inputs)
    found = OpenVinoSession(lower(after, "openvino")).run(inputs)
    for name in ("y", "z"):
        np.testing.assert_array_equal(found[name], expected[name])
    none = {"ids": np.zeros((0, 2), np.int64), "more": np.zeros(0, np.int64)}
    assert OpenVinoSession(lower(after, "openvino")).run(none)["y"].shape == (0, 2, 64)


@pytest.mark.parametrize(
    ("features", "group"), [(64, 0), (64, 16), (64, 256), (40, 16), (40, 256), (37, 16), (37, 64)]
)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_products_agree_with_the_reference(bits: int, features: int, group: int) -> None:
    after = quantized(two_layers(features), bits=bits, group=group)  # some are cut short
    x = correlated(7, features)
    expected = Session(after, graph_optimizations=False).run({"x": x})["y"]
    # Activations may be rounded to 8 bits within the product, as in ONNX Runtime's kernel.
    found = OpenVinoSession(lower(after, "openvino")).run({"x": x})["y"]
    assert relative_error(found, expected) < 0.02


@pytest.mark.parametrize(
    ("attributes", "operands", "is_restored"),
    [
        ("axis = -1, block_size = 4", "q, scale", True),
        ("axis = 1, block_size = 4", "q, scale", True),
        ("axis = 0, block_size = 4", "q, scale", False),
        ("axis = -1, block_size = 4", "q, scale, zero", False),
        ("axis = -1", "q, scale", False),
    ],
)
def test_only_blocks_along_rows_are_spelled_out(
    attributes: str, operands: str, is_restored: bool
) -> None:
    text = ROWS.format(attributes=attributes, operands=operands)
    if "zero" in operands:
        text = text.replace("scale)", "scale, int8[R,2] zero)", 1)
    module = module_from(text)
    expected = module.clone()
    restore_blocks(Rewriter(module))
    used = [node.op_type for node in module.graph]
    assert ("Reshape" in used) == is_restored
    if not is_restored:
        return
    generator = np.random.default_rng(0)
    inputs: dict[str, Array] = {
        "q": generator.integers(-128, 128, (3, 8)).astype(np.int8),
        "scale": generator.random((3, 2)).astype(np.float32),
    }
    found, wanted = (Session(m, graph_optimizations=False).run(inputs) for m in (module, expected))
    np.testing.assert_array_equal(found["y"], wanted["y"])
