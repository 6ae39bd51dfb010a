from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from dechaff.batch_shapes import shorter_batches
from dechaff.ir import Module, SymbolRange, parse

MODEL = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[B,S,8] x, int64[B,T] mask, float[B,4,past,2] cache, float[B,H2,W2] image)
=> (float[B,S,8] y, int64[B,T] m, float[B,4,past,2] c, float[B,H2,W2] i) {
  y = Identity(x)
  m = Identity(mask)
  c = Identity(cache)
  i = Identity(image)
}
"""


def model() -> Module:
    """Whose mask is as long as the sequence and the cache; the text form has no sums."""
    module = parse(MODEL)
    module.graph.inputs[1].shape = ir.Shape(["B", ir.SymbolicDim("S + past")])
    return module


def batch(**sizes: int) -> dict[str, Any]:
    count = {"B": 3, "S": 7, "past": 2, "H2": 1, "W2": 1} | sizes
    rows, total = count["B"], count["S"] + count["past"]
    return {
        "x": np.arange(rows * count["S"] * 8, dtype=np.float32).reshape(rows, -1, 8),
        "mask": np.arange(rows * total).reshape(rows, total),
        "cache": np.zeros((rows, 4, count["past"], 2), np.float32),
        "image": np.zeros((rows, count["H2"], count["W2"]), np.float32),
    }


def shapes(module: Module, given: dict[str, Any], count: int = 2) -> list[list[tuple[int, ...]]]:
    found = shorter_batches(module, given, count)
    for each in found:
        for name, array in each.items():
            np.testing.assert_array_equal(array, given[name][tuple(map(slice, array.shape))])
    return [[array.shape for array in each.values()] for each in found]


def test_the_longest_free_axis_becomes_shorter_wherever_it_counts() -> None:
    module = model()
    assert shapes(module, batch()) == [
        [(3, 6, 8), (3, 8), (3, 4, 2, 2), (3, 1, 1)],
        [(3, 5, 8), (3, 7), (3, 4, 2, 2), (3, 1, 1)],
    ]
    assert shapes(module, batch(S=1, past=5), 1) == [[(3, 1, 8), (3, 5), (3, 4, 4, 2), (3, 1, 1)]]
    assert shapes(module, batch(B=9), 1) == [[(8, 7, 8), (8, 9), (8, 4, 2, 2), (8, 1, 1)]]


def test_of_axes_of_one_length_a_later_one_becomes_shorter() -> None:
    assert shapes(model(), batch(B=7), 1) == [[(7, 6, 8), (7, 8), (7, 4, 2, 2), (7, 1, 1)]]


@pytest.mark.parametrize(("least", "found"), [(0, 6), (1, 6), (6, 1), (7, 0)])
def test_no_axis_becomes_shorter_than_the_model_allows(least: int, found: int) -> None:
    module = model()
    module.symbols["S"] = SymbolRange(least, None)
    assert len(shapes(module, batch(), 10)) == found


def test_a_model_of_fixed_sizes_has_no_shorter_batch() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 23]>
    g (float[2,3] x) => (float[2,3] y) { y = Identity(x) }
    """
    assert shorter_batches(parse(text), {"x": np.zeros((2, 3), np.float32)}, 3) == []
