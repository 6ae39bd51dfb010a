"""Feed-forward layers one cache line wider: the same numbers, and only where rows share a set."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dechaff.backends import Session, lower, start_session
from dechaff.ir import Module, constant_value, infer_shapes, parse
from dechaff.passes.matching import sizes_of
from tests.model_runner import Array

WIDTH = 1024
GELU = 'h = Gelu <approximate = "none"> (biased)'


def feed_forward(between: str, width: int = WIDTH, outputs: str = "float[T,8] y") -> Module:
    module = parse(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        layer (float[T,8] x, float[8,{width}] up, float[{width}] bias, float[8,{width}] gate,
               float[{width},8] down, float[8] last) => ({outputs})
        {{
            product = MatMul (x, up)
            biased = Add (product, bias)
            {between}
            contracted = MatMul (h, down)
            y = Add (contracted, last)
        }}
    """)
    _fill(module)
    return module


def _fill(module: Module) -> None:
    """Make the inputs after the first one weights."""
    generator = np.random.default_rng(0)
    graph = module.graph
    for value in list(graph.inputs)[1:]:
        graph.inputs.remove(value)
        sizes = [size for size in value.shape or () if isinstance(size, int)]
        array = generator.standard_normal(sizes).astype(np.float32) / 8
        value.const_value = ir.tensor(array, name=value.name)
        graph.register_initializer(value)
    infer_shapes(module)


def widths(module: Module) -> set[int]:
    """The widths of the hidden layer, in the left operands of products."""
    return {
        sizes_of(weight)[0]
        for node in module.nodes()
        if node.op_type in ("MatMul", "Gemm") and node.inputs[0] is not module.graph.inputs[0]
        if (weight := constant_value(node.inputs[1])) is not None
    }


def run(module: Module, x: Array) -> Array:
    session = start_session(module)
    assert isinstance(session, Session)
    return session.run({"x": x})["y"]


BETWEEN = {
    "gelu": GELU,
    "gated": "gates = MatMul (x, gate) s = Sigmoid (gates) t = Mul (gates, s) h = Mul (t, biased)",
    "squared": "r = Relu (biased) h = Mul (r, r)",
    "scaled": "two = Constant <value = float {2.0}> () s = Mul (biased, two) h = Tanh (s)",
    "shifted": "h = Sub (bias, biased)",
    "nothing": "h = Identity (biased)",
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=list(BETWEEN))
@pytest.mark.parametrize("tokens", [1, 13])
def test_a_wider_layer_gives_the_same_numbers(between: str, tokens: int) -> None:
    module = feed_forward(between)
    wide, plain = lower(module, "cpu"), lower(module, "portable")
    assert widths(wide) == {WIDTH + 16}
    assert widths(plain) == {WIDTH}
    x = np.random.default_rng(1).standard_normal((tokens, 8)).astype(np.float32)
    np.testing.assert_allclose(run(wide, x), run(plain, x), rtol=1e-6, atol=1e-6)


def test_the_module_itself_stays() -> None:
    module = feed_forward(GELU)
    lower(module, "cpu")
    assert widths(module) == {WIDTH}


STOPPED = {
    "rows that spread over the sets": feed_forward(GELU, width=1536),
    "a sum over the hidden width": feed_forward(
        "square = Mul (biased, biased) axes = Constant <value = int64[1] {-1}> ()"
        " mean = ReduceMean (square, axes) h = Sub (biased, mean)"
    ),
    "a softmax": feed_forward("h = Softmax (biased)"),
    "infinite at zero": feed_forward("h = Log (biased)"),
    "a hidden value that is an output": feed_forward(
        GELU, outputs=f"float[T,8] y, float[T,{WIDTH}] h"
    ),
    "a second reader": feed_forward(
        GELU + " other = Softmax (h) z = MatMul (other, down)", outputs="float[T,8] y, float[T,8] z"
    ),
}


@pytest.mark.parametrize("module", STOPPED.values(), ids=list(STOPPED))
def test_each_condition_alone_stops_it(module: Module) -> None:
    width = WIDTH if 1536 not in widths(module) else 1536
    assert widths(lower(module, "cpu")) == {width}


def test_a_weight_with_two_readers_stays() -> None:
    module = feed_forward(
        GELU + " other = MatMul (x, up)", outputs=f"float[T,8] y, float[T,{WIDTH}] other"
    )
    assert widths(lower(module, "cpu")) == {WIDTH}


def projections(
    rows: str = "B,S", width: int = WIDTH, columns: int = 512, more: str = "", outputs: str = ""
) -> Module:
    module = parse(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        attention (float[{rows},{width}] x, float[{width}] scale, float[{width},{columns}] query,
                   float[{width},{columns}] key) => (float[{rows},{columns}] y{outputs})
        {{
            normal = LayerNormalization <axis = -1> (x, scale)
            q = MatMul (normal, query)
            k = MatMul (normal, key)
            y = Mul (q, k)
            {more}
        }}
    """)
    _fill(module)
    return module


def copies(module: Module) -> list[ir.Node]:
    return [node for node in module.nodes() if node.op_type == "Pad"]


@pytest.mark.parametrize("rows", [(1, 1), (3, 7)], ids=str)
def test_products_of_one_value_read_one_wider_copy(rows: tuple[int, int]) -> None:
    module = projections()
    wide, plain = lower(module, "cpu"), lower(module, "portable")
    (copy,) = copies(wide)
    assert [user.op_type for user, _ in copy.outputs[0].uses()] == ["MatMul", "MatMul"]
    assert widths(wide) == {WIDTH + 16}
    assert not copies(plain)
    x = np.random.default_rng(1).standard_normal((*rows, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(run(wide, x), run(plain, x), rtol=1e-5, atol=1e-6)
    assert widths(module) == {WIDTH}


def test_who_adds_a_bias_in_the_product_reads_the_copy_too() -> None:
    module = parse(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        pooler (float[T,{WIDTH}] x, float[{WIDTH},512] weight, float[512] bias) => (float[T,512] y)
        {{ h = Tanh (x) y = Gemm (h, weight, bias) }}
    """)
    _fill(module)
    wide, plain = lower(module, "cpu"), lower(module, "portable")
    assert len(copies(wide)) == 1
    x = np.random.default_rng(1).standard_normal((13, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(run(wide, x), run(plain, x), rtol=1e-5, atol=1e-6)


NOT_COPIED = {
    "rows that spread over the sets": projections(width=768),
    "few columns": projections(columns=128),
    "few rows": projections(rows="3,5"),
    "weights with a second reader": projections(
        more="z = MatMul (y, query) w = MatMul (y, key)",
        columns=WIDTH,
        outputs=f", float[B,S,{WIDTH}] z, float[B,S,{WIDTH}] w",
    ),
}


@pytest.mark.parametrize("module", NOT_COPIED.values(), ids=list(NOT_COPIED))
def test_each_condition_alone_stops_a_copy(module: Module) -> None:
    assert not copies(lower(module, "cpu"))


def test_as_many_rows_as_pay_are_copied() -> None:
    assert len(copies(lower(projections(rows="4,4"), "cpu"))) == 1
