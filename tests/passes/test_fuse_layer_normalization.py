from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dechaff.passes.fuse_layer_normalization import FuseLayerNormalization
from tests.passes.rewrite_checks import (
    check_cost,
    check_declines,
    check_ignores,
    check_numbers,
    check_rewrite,
    module_from,
    run_pass,
)

CONSTANTS = """<int64[1] last = {-1}, int64[1] second = {2}, int64[1] first = {1},
    int64[2] both = {1,2}, float two = {2}, float one = {1}, float three = {3},
    float half = {0.5}, float minus_half = {-0.5}, float zero = {0},
    float epsilon = {0.00001}, float[4] epsilons = {0.00001, 0.1, 0.1, 0.1},
    float[4] weight = {1, 2, 3, 4}, float[4] bias = {0.5, 0, -0.5, 1},
    float[1,4] weight_2d = {1, 2, 3, 4}>"""

LAYER = """mean = ReduceMean <keepdims = 1> (x, last)
    centered = Sub (x, mean)
    squared = Pow (centered, two)
    variance = ReduceMean <keepdims = 1> (squared, last)
    shifted = Add (variance, epsilon)
    deviation = Sqrt (shifted)
    normalized = Div (centered, deviation)
    scaled = Mul (normalized, weight)
    y = Add (scaled, bias)"""

LAYER_SPELLINGS = {
    "Pow and Div": LAYER,
    "Mul and swapped operands": """mean = ReduceMean (x, second)
        centered = Sub (x, mean)
        squared = Mul (centered, centered)
        variance = ReduceMean (squared, second)
        shifted = Add (epsilon, variance)
        deviation = Sqrt (shifted)
        normalized = Div (centered, deviation)
        scaled = Mul (weight, normalized)
        y = Add (bias, scaled)""",
    "Reciprocal": LAYER.replace(
        "normalized = Div (centered, deviation)",
        "inverse = Reciprocal (deviation)\n normalized = Mul (inverse, centered)",
    ),
    "one over the root": LAYER.replace(
        "normalized = Div (centered, deviation)",
        "inverse = Div (one, deviation)\n normalized = Mul (centered, inverse)",
    ),
    "power of a half": LAYER.replace("Sqrt (shifted)", "Pow (shifted, half)"),
    "power of minus a half": LAYER.replace("Sqrt (shifted)", "Pow (shifted, minus_half)").replace(
        "Div (centered", "Mul (centered"
    ),
}

RMS = """squared = Pow (x, two)
    square = ReduceMean <keepdims = 1> (squared, last)
    shifted = Add (square, epsilon)
    root = Sqrt (shifted)
    inverse = Reciprocal (root)
    normalized = Mul (x, inverse)
    y = Mul (weight, normalized)"""

RMS_SPELLINGS = {
    "Reciprocal": RMS,
    "one over the root": RMS.replace("Reciprocal (root)", "Div (one, root)"),
    "Div and Mul": RMS.replace("Pow (x, two)", "Mul (x, x)")
    .replace("inverse = Reciprocal (root)", "")
    .replace("Mul (x, inverse)", "Div (x, root)")
    .replace("(weight, normalized)", "(normalized, weight)"),
}


def graph(body: str, outputs: str = "float[B,S,4] y") -> str:
    return f"g (float[B,S,4] x) => ({outputs}) {CONSTANTS} {{ {body} }}"


LAYER_FUSED = graph("y = LayerNormalization <axis = -1, epsilon = 0.00001> (x, weight, bias)")
RMS_FUSED = graph("y = RMSNormalization <axis = -1, epsilon = 0.00001> (x, weight)")


@pytest.mark.parametrize("body", LAYER_SPELLINGS.values(), ids=LAYER_SPELLINGS.keys())
def test_layer_normalization_fuses(body: str) -> None:
    check_rewrite(FuseLayerNormalization(), graph(body), LAYER_FUSED)


@pytest.mark.parametrize("body", RMS_SPELLINGS.values(), ids=RMS_SPELLINGS.keys())
def test_rms_normalization_fuses(body: str) -> None:
    check_rewrite(FuseLayerNormalization(), graph(body), RMS_FUSED)


def test_layer_normalization_without_bias_fuses() -> None:
    check_rewrite(
        FuseLayerNormalization(),
        graph(LAYER.replace("Add (scaled, bias)", "Neg (scaled)")),
        graph("""scaled = LayerNormalization <axis = -1, epsilon = 0.00001> (x, weight)
                 y = Neg (scaled)"""),
    )


def test_a_residual_after_the_scale_is_not_a_bias() -> None:
    check_rewrite(
        FuseLayerNormalization(),
        graph(LAYER.replace("Add (scaled, bias)", "Add (scaled, x)")),
        graph("""scaled = LayerNormalization <axis = -1, epsilon = 0.00001> (x, weight)
                 y = Add (scaled, x)"""),
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("(squared, last)", "(squared, first)", "the mean is not over the last axis alone"),
        ("(squared, last)", "(squared, both)", "the mean is not over the last axis alone"),
        ("Add (variance, epsilon)", "Add (variance, epsilons)", "not a scalar constant"),
        ("Add (variance, epsilon)", "Add (variance, zero)", "epsilon is not a positive number"),
        ("Mul (normalized, weight)", "Mul (normalized, two)", "not a vector as long as"),
        ("Mul (normalized, weight)", "Mul (normalized, weight_2d)", "not a vector as long as"),
        ("Mul (normalized, weight)", "Neg (normalized)", "no scale follows"),
        ("Div (centered, deviation)", "Div (x, deviation)", "does not divide the value"),
        ("Div (centered, deviation)", "Div (deviation, centered)", "does not divide the value"),
    ],
)
def test_each_condition_alone_stops_layer_normalization(old: str, new: str, reason: str) -> None:
    assert old in LAYER
    check_declines(FuseLayerNormalization(), graph(LAYER.replace(old, new)), reason)


@pytest.mark.parametrize(
    ("old", "new"),
    [("Pow (centered, two)", "Pow (centered, three)"), ("Sqrt (shifted)", "Exp (shifted)")],
)
def test_another_formula_is_no_normalization(old: str, new: str) -> None:
    assert old in LAYER
    check_ignores(FuseLayerNormalization(), graph(LAYER.replace(old, new)))


@pytest.mark.parametrize("inner", ["variance", "deviation", "normalized", "centered"])
def test_an_inner_value_used_elsewhere_stops_it(inner: str) -> None:
    width = 1 if inner in ("variance", "deviation") else 4
    check_declines(
        FuseLayerNormalization(),
        graph(LAYER, f"float[B,S,4] y, float[B,S,{width}] {inner}"),
        "a value inside it is used elsewhere",
    )


def test_a_mean_over_another_axis_leaves_a_root_mean_square() -> None:
    result, _ = run_pass(
        FuseLayerNormalization(),
        module_from(graph(LAYER.replace("ReduceMean <keepdims = 1> (x, last)", "Neg (x)"))),
    )
    assert [node.op_type for node in result.graph] == ["Neg", "Sub", "RMSNormalization", "Add"]


def test_two_normalizations_in_a_row_fuse_both() -> None:
    second = LAYER.replace("(x", "(z")
    for name in ("mean", "centered", "squared", "variance", "shifted", "deviation"):
        second = second.replace(name, f"{name}2")
    second = second.replace("normalized", "normalized2").replace("scaled", "scaled2")
    original = module_from(graph(LAYER.replace("y = ", "z = ") + "\n" + second))
    result, record = run_pass(FuseLayerNormalization(), original)
    assert [node.op_type for node in result.graph] == ["LayerNormalization"] * 2
    assert len(record.rewrites) == 2
    check_numbers(FuseLayerNormalization.numerics, original, result)
    check_cost(original, result)


def test_double_precision_stays() -> None:
    text = graph(RMS).replace("float", "double")
    check_declines(FuseLayerNormalization(), text, "its dtype is not one")


def half(number: float) -> int:
    return int(np.float16(number).view(np.uint16))


def test_casts_around_the_division_go_with_it() -> None:
    weight = f"float16[4] weight = {{{half(1)}, {half(2)}, {half(3)}, {half(4)}}}"
    check_rewrite(
        FuseLayerNormalization(),
        f"""g (float16[B,S,4] x) => (float16[B,S,4] y)
        <float two = {{2}}, float epsilon = {{0.00001}}, int64[1] last = {{-1}}, {weight}>
        {{ wide = Cast <to = 1> (x)
           squared = Pow (wide, two)
           square = ReduceMean <keepdims = 1> (squared, last)
           shifted = Add (square, epsilon)
           root = Sqrt (shifted)
           inverse = Reciprocal (root)
           normalized = Mul (wide, inverse)
           narrow = Cast <to = 10> (normalized)
           y = Mul (weight, narrow) }}""",
        f"""g (float16[B,S,4] x) => (float16[B,S,4] y) <{weight}>
        {{ y = RMSNormalization <axis = -1, epsilon = 0.00001> (x, weight) }}""",
    )


def test_a_cast_back_after_the_scale_stays_with_it() -> None:
    check_rewrite(
        FuseLayerNormalization(),
        """g (float16[B,S,4] x) => (float16[B,S,4] y)
        <float two = {2}, float epsilon = {0.00001}, int64[1] last = {-1},
         float[4] weight = {1, 2, 3, 4}>
        { wide = Cast <to = 1> (x)
          squared = Pow (wide, two)
          square = ReduceMean <keepdims = 1> (squared, last)
          shifted = Add (square, epsilon)
          root = Sqrt (shifted)
          normalized = Div (wide, root)
          scaled = Mul (normalized, weight)
          y = Cast <to = 10> (scaled) }""",
        """g (float16[B,S,4] x) => (float16[B,S,4] y) <float[4] weight = {1, 2, 3, 4}>
        { wide = Cast <to = 1> (x)
          scaled = RMSNormalization <axis = -1, epsilon = 0.00001> (wide, weight)
          y = Cast <to = 10> (scaled) }""",
    )


@settings(max_examples=6, deadline=None)
@given(batch=st.integers(1, 3), length=st.integers(1, 7))
def test_numbers_hold_at_any_size(batch: int, length: int) -> None:
    check_rewrite(FuseLayerNormalization(), graph(LAYER), LAYER_FUSED, [{"B": batch, "S": length}])
