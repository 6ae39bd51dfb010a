"""Products that are only cut into parts: each part a product, with the same numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dechaff.backends import lower, start_session
from dechaff.ir import Module, constant_value, infer_shapes, parse
from dechaff.passes.matching import sizes_of
from tests.model_runner import Array

WIDTH = 24
INITIALIZERS = """
    int64[1] zero = {0}, int64[1] eight = {8}, int64[1] ten = {10}, int64[1] last = {-1},
    int64[1] one = {1}, int64[1] two = {2}, int64[1] many = {9223372036854775807},
    int64[2] widths = {16, 8}, int64[3] thirds = {8, 8, 8}
"""
HALVES = "a, b = Split <axis = -1, num_outputs = 2> (whole)"
SLICES = """
    a = Slice (whole, zero, eight, last)
    b = Slice (whole, last_eight, many, two, one)
"""


def product_in_parts(
    reading: str, bias: str = "whole = Add (product, bias)", outputs: str = "a, b"
) -> Module:
    """``float[B,S,6] x`` times a matrix of 24 columns, and what reads the product."""
    module = parse(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        layer (float[B,S,6] x, float[6,{WIDTH}] weight, float[{WIDTH}] bias) => ({outputs})
        <{INITIALIZERS}, int64[1] last_eight = {{-8}}>
        {{
            product = MatMul (x, weight)
            {bias}
            {reading}
        }}
    """)
    generator = np.random.default_rng(0)
    for value in list(module.graph.inputs)[1:]:
        module.graph.inputs.remove(value)
        sizes = [size for size in value.shape or () if isinstance(size, int)]
        array = generator.standard_normal(sizes).astype(np.float32)
        value.const_value = ir.tensor(array, name=value.name)
        module.graph.register_initializer(value)
    infer_shapes(module)
    return module


def columns(module: Module) -> list[int]:
    """Columns of each product, in order of their number."""
    weights = [constant_value(n.inputs[1]) for n in module.nodes() if n.op_type == "MatMul"]
    return sorted(sizes_of(weight)[1] for weight in weights if weight is not None)


def run(module: Module, x: Array) -> dict[str, Array]:
    return dict(start_session(module).run({"x": x}))


PARTS = {
    "halves": (HALVES, [12, 12]),
    "sizes": ("a, b = Split <axis = 2> (whole, widths)", [8, 16]),
    "slices": (SLICES, [8, 8]),
    "thirds, one of them unread": ("a, b, c = Split <axis = -1> (whole, thirds)", [8, 8]),
    "slices of one column": (
        "a = Slice (whole, zero, one, last)\n b = Slice (whole, one, two, last)",
        [1, 1],
    ),
}


@pytest.mark.parametrize(("reading", "widths"), PARTS.values(), ids=list(PARTS))
@pytest.mark.parametrize("bias", ["whole = Add (product, bias)", "whole = Add (bias, product)", ""])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 0)])
def test_a_product_per_part(
    reading: str, widths: list[int], bias: str, shape: tuple[int, int]
) -> None:
    module = product_in_parts(reading if bias else reading.replace("whole", "product"), bias)
    lowered, portable = lower(module, "cpu"), lower(module, "portable")
    assert columns(lowered) == widths
    assert not {"Split", "Slice"} & {node.op_type for node in lowered.nodes()}
    assert columns(portable) == columns(module) == [WIDTH]
    x = np.random.default_rng(1).standard_normal((*shape, 6)).astype(np.float32)
    found, expected = run(lowered, x), run(portable, x)
    assert found.keys() == expected.keys() == {"a", "b"}
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_the_whole_weight_is_not_kept_beside_its_parts() -> None:
    lowered = lower(product_in_parts(HALVES), "cpu")
    tensors = [constant_value(value) for value in lowered.graph.initializers.values()]
    elements = [tensor.size for tensor in tensors if tensor is not None]
    assert sum(size for size in elements if size > 1) == 6 * WIDTH + WIDTH


STOPPED = {
    "another reader": (HALVES + "\n c = Neg (whole)", "a, b, c"),
    "the whole is an output": (HALVES, "a, b, whole"),
    "parts that overlap": (
        "a = Slice (whole, zero, ten, last)\n b = Slice (whole, eight, many, last)\n"
        "c = Slice (whole, zero, eight, last)",
        "a, b, c",
    ),
    "a part of the rows": (
        "a = Slice (whole, zero, one, one)\n b = Slice (whole, zero, eight, last)",
        "a, b",
    ),
    "rows": ("a, b = Split <axis = 0, num_outputs = 2> (whole)", "a, b"),
    "every other column": (
        "a = Slice (whole, zero, ten, last, two)\n b = Slice (whole, ten, many, last)",
        "a, b",
    ),
    "one part only": ("a = Slice (whole, zero, eight, last)", "a"),
    "the same weight elsewhere": (HALVES + "\n c = MatMul (x, weight)", "a, b, c"),
    "the product without its bias, too": (HALVES + "\n c = Neg (product)", "a, b, c"),
    "a size known when it runs": (
        "size = Shape <start = 0, end = 1> (x)\n a = Slice (whole, zero, size, last)\n"
        "b = Slice (whole, eight, many, last)",
        "a, b",
    ),
}


@pytest.mark.parametrize(("reading", "outputs"), STOPPED.values(), ids=list(STOPPED))
def test_each_condition_alone_stops_it(reading: str, outputs: str) -> None:
    module = product_in_parts(reading, outputs=outputs)
    lowered = lower(module, "cpu")
    assert set(columns(lowered)) == {WIDTH}
    x = np.random.default_rng(1).standard_normal((2, 5, 6)).astype(np.float32)
    found, expected = run(lowered, x), run(lower(module, "portable"), x)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
