from __future__ import annotations

import numpy as np
import pytest

from dechaff.ir import Module
from dechaff.passes import parse_pass_list, run_passes
from dechaff.passes.convert_precision import ConvertPrecision, ConvertPrecisionOptions
from tests.model_runner import random_inputs, run_module
from tests.passes.rewrite_checks import (
    check_ignores,
    check_rewrite,
    module_from,
    record_of,
    relative_error,
    run_pass,
)

FLOAT16_ERROR = 4 * 2.0**-11
"""A few roundings to 11 bits."""


def floats(module: Module) -> dict[str, str]:
    """The dtype in which each operator computes, by its name in the original."""
    return {
        node.op_type: node.outputs[0].dtype.name.lower()
        for node in module.graph
        if node.op_type != "Cast" and node.outputs[0].dtype is not None
    }


def converted(text: str, dtype: str = "float16") -> Module:
    after, _ = run_pass(ConvertPrecision(ConvertPrecisionOptions(dtype)), module_from(text))
    return after


def test_neighbours_share_casts_and_weights_are_stored_narrow() -> None:
    check_rewrite(
        ConvertPrecision(),
        """g (float[T,4] x) => (float[T,4] y) <float[4] b = {1, -2, 0.5, 3}>
        {
            biased = Add (x, b)
            a = Gelu (biased)
            scaled = Mul (a, b)
            y = Add (scaled, x)
        }""",
        """g (float[T,4] x) => (float[T,4] y) <float16[4] b = {15360, 49152, 14336, 16896}>
        {
            x_half = Cast <to = 10> (x)
            biased = Add (x_half, b)
            a = Gelu (biased)
            scaled = Mul (a, b)
            y_half = Add (scaled, x_half)
            y = Cast <to = 1> (y_half)
        }""",
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_inputs_and_outputs_keep_their_types(dtype: str) -> None:
    after = converted(
        "g (float[T,4] x) => (float[T,4] y) <float[4,4] w = {...}> { y = MatMul (x, w) }", dtype
    )
    assert [value.dtype.name for value in after.graph.inputs if value.dtype] == ["FLOAT"]
    assert [value.dtype.name for value in after.graph.outputs if value.dtype] == ["FLOAT"]
    assert floats(after) == {"MatMul": dtype}


def test_a_sum_and_the_quotient_it_is_for_stay_in_float32() -> None:
    after = converted(
        """g (float[T,4] x) => (float[T,4] y)
        <float[4,4] w = {...}, float eps = {0.000000000001}, int64[1] last = {-1}>
        {
            z = MatMul (x, w)
            square = Mul (z, z)
            mean = ReduceMean (square, last)
            shifted = Add (mean, eps)
            root = Sqrt (shifted)
            y = Div (z, root)
        }"""
    )
    assert floats(after) == {
        "MatMul": "float16",
        "Mul": "float16",
        "ReduceMean": "float",
        "Add": "float",
        "Sqrt": "float",
        "Div": "float",
    }


def test_a_product_after_a_sum_is_converted_again() -> None:
    after = converted(
        """g (float[T,4] x) => (float[T,4] y) <float[4,4] w = {...}>
        {
            p = Softmax (x)
            y = MatMul (p, w)
        }"""
    )
    assert floats(after) == {"Softmax": "float", "MatMul": "float16"}


def test_angles_and_their_positions_stay_in_float32() -> None:
    after = converted(
        """g (float[T,4] x, float[T,1] position) => (float[T,4] y) <float[1,4] frequency = {...}>
        {
            angle = MatMul (position, frequency)
            turned = Cos (angle)
            y = Mul (x, turned)
        }"""
    )
    assert floats(after) == {"MatMul": "float", "Cos": "float", "Mul": "float16"}


def test_the_smallest_float32_of_a_mask_becomes_the_smallest_float16() -> None:
    module = module_from(
        """g (float[T,4] x) => (float[T,4] y) <float[4] mask = {0, 0, 0, -3.4028234e38}>
        { y = Add (x, mask) }"""
    )
    after, record = run_pass(ConvertPrecision(), module)
    y = run_module(after, {"x": np.zeros((2, 4), np.float32)})["y"]
    assert y[0].tolist() == [0, 0, 0, -65504]
    assert "mask held numbers beyond float16" in "\n".join(record.notes)


def test_softmax_within_attention_stays_in_float32() -> None:
    after = converted("g (float[B,2,S,4] q) => (float[B,2,S,4] y) { y = Attention (q, q, q) }")
    attention = next(node for node in after.graph if node.op_type == "Attention")
    assert attention.attributes["softmax_precision"].as_int() == 1


@pytest.mark.parametrize(
    "body",
    ["y = Add (n, n)", "y = Neg (n)"],
    ids=["integers", "one operand"],
)
def test_integers_are_left_alone(body: str) -> None:
    check_ignores(ConvertPrecision(), f"g (int64[T] n) => (int64[T] y) {{ {body} }}")


def test_what_subgraphs_read_stays() -> None:
    module = module_from(
        """g (float[T,4] x, bool c) => (float[T,4] y) <float[4,4] w = {...}>
        {
            z = MatMul (x, w)
            y = If (c) <
                then_branch = t () => (float[T,4] a) { a = Neg (z) },
                else_branch = e () => (float[T,4] b) { b = Abs (z) }
            >
        }"""
    )
    after, _ = run_pass(ConvertPrecision(), module)
    for choice in (True, False):
        inputs = {**random_inputs(module), "c": np.array(choice)}
        found, expected = run_module(after, inputs)["y"], run_module(module, inputs)["y"]
        assert relative_error(found, expected) < FLOAT16_ERROR


@pytest.mark.parametrize("lengths", [(5, 3, 1), (1,), (5, 0, 2)])
def test_packed_bert_keeps_the_numbers(exported_bert: object, lengths: tuple[int, ...]) -> None:
    assert callable(exported_bert)
    module = exported_bert("sdpa", 18)
    passes = parse_pass_list("default,convert-precision")
    after, records = run_passes(module.clone(), passes)
    assert record_of("convert-precision", records).changed
    mask = (np.arange(5) < np.array(lengths)[:, None]).astype(np.int64)
    inputs = {"input_ids": np.arange(5 * len(lengths)).reshape(-1, 5) % 50, "attention_mask": mask}
    expected, found = run_module(module, inputs)["hidden"], run_module(after, inputs)["hidden"]
    valid = mask == 1
    assert not found[~valid].any()
    assert relative_error(found[valid], expected[valid]) < FLOAT16_ERROR
    weights = [
        v.const_value for v in after.graph.initializers.values() if v.const_value is not None
    ]
    assert max((w.size for w in weights if w.dtype.name == "FLOAT"), default=0) <= 16


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="float16 or bfloat16, got 'int8'"):
        ConvertPrecisionOptions("int8")
