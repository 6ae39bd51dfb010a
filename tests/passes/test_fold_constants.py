from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from dechaff.ir import Module, UsageError, num_parameters
from dechaff.passes import parse_pass_list
from dechaff.passes.fold_constants import FoldConstants, FoldConstantsOptions
from tests.model_runner import Array, run_module
from tests.passes.rewrite_checks import (
    check_declines,
    check_ignores,
    check_numbers,
    check_rewrite,
    module_from,
    run_pass,
)

TERABYTES = "1099511627776"


def test_chains_of_constants_fold_whole() -> None:
    check_rewrite(
        FoldConstants(),
        """g (int64[B] x) => (int64[B] y) <int64[2] pair = {3,4}, int64 one = {1}>
        { first = Gather (pair, one)
          more = Add (first, one)
          y = Add (x, more) }""",
        "g (int64[B] x) => (int64[B] y) <int64 five = {5}> { y = Add (x, five) }",
    )


def test_sizes_that_are_known_fold_though_their_tensor_is_not_constant() -> None:
    check_rewrite(
        FoldConstants(),
        """g (float[B,8] x) => (float[N,4] y) <int64[1] one = {1}, int64[1] rows = {-1}>
        { sizes = Shape (x)
          width = Gather (sizes, one)
          two = Add (one, one)
          half = Div (width, two)
          target = Concat <axis = 0> (rows, half)
          y = Reshape (x, target) }""",
        """g (float[B,8] x) => (float[N,4] y) <int64[2] target = {-1,4}>
        { y = Reshape (x, target) }""",
    )


def test_sizes_that_are_symbols_stay() -> None:
    check_ignores(FoldConstants(), "g (float[B,8] x) => (int64[2] y) { y = Shape (x) }")


def test_graph_output_keeps_its_name() -> None:
    original = module_from("g () => (int64[2] y) <int64[2] a = {3,4}> { y = Add (a, a) }")
    result, _ = run_pass(FoldConstants(), original)
    assert [node.op_type for node in result.graph] == ["Identity"]
    check_numbers(FoldConstants.numerics, original, result)
    _, again = run_pass(FoldConstants(), result)
    assert not again.changed


def test_an_input_with_a_default_is_not_constant() -> None:
    check_ignores(
        FoldConstants(),
        "g (float[2] x, float[2] w = {1,2}) => (float[2] y) { v = Neg (w)\n y = Add (x, v) }",
    )


@pytest.mark.parametrize(
    "bomb",
    [
        f"n = Constant <value = int64[1] {{{TERABYTES}}}> ()\n y = ConstantOfShape (n)",
        f"n = Constant <value = int64[1] {{{TERABYTES}}}> ()\n y = Expand (one, n)",
        f"n = Constant <value = int64[1] {{{TERABYTES}}}> ()\n y = Tile (one, n)",
        f"""n = Constant <value = int64 {{{TERABYTES}}}> ()
        a = Constant <value = int64 {{0}}> ()
        b = Constant <value = int64 {{1}}> ()
        y = Range (a, n, b)""",
    ],
    ids=["ConstantOfShape", "Expand", "Tile", "Range"],
)
def test_a_result_of_terabytes_is_refused_before_it_is_computed(bomb: str) -> None:
    check_declines(
        FoldConstants(), f"g () => (y) <float[1] one = {{1}}> {{ {bomb} }}", "max_bytes leaves"
    )


def test_a_size_that_overflows_in_shape_inference_is_refused_too() -> None:
    text = """g () => (float[N] y) <float[4] four = {1,2,3,4}, int64[1] n = {4611686018427387904}>
    { y = Tile (four, n) }"""
    result, _ = run_pass(FoldConstants(), module_from(text))
    assert [node.op_type for node in result.graph] == ["Tile"]


def test_the_bound_holds_for_all_folds_together() -> None:
    text = """g (float[100] x) => (float[100] y) <int64[1] n = {100}>
    { a = ConstantOfShape <value = float[1] {1}> (n)
      b = ConstantOfShape <value = float[1] {2}> (n)
      c = Mul (x, a)
      y = Mul (c, b) }"""
    result, record = run_pass(FoldConstants(FoldConstantsOptions(600)), module_from(text))
    assert sorted(node.op_type for node in result.graph) == ["ConstantOfShape", "Mul", "Mul"]
    assert "max_bytes leaves 200 to grow by" in record.misses[0].reason


def with_weight(text: str, name: str, weight: Array) -> Module:
    module = module_from(text)
    module.graph.initializers[name].const_value = ir.tensor(weight, name=name)
    module.graph.initializers[name].shape = ir.Shape(weight.shape)
    return module


def test_a_large_weight_is_replaced_by_its_transpose() -> None:
    weight = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32)
    original = with_weight(
        """g (float[B,512] x) => (float[B,1024] y) <float[1024,512] w = {0}>
        { t = Transpose <perm = [1, 0]> (w)
          y = MatMul (x, t) }""",
        "w",
        weight,
    )
    result, record = run_pass(FoldConstants(FoldConstantsOptions(0)), original)
    assert [node.op_type for node in result.graph] == ["MatMul"]
    assert num_parameters(result) == num_parameters(original)
    assert record.rewrites[0].origins == ("Transpose_0",)
    check_numbers(FoldConstants.numerics, original, result, [{"B": 2}])


def test_a_tied_weight_is_not_stored_twice() -> None:
    check_declines(
        FoldConstants(FoldConstantsOptions(0)),
        """g (int64[B] ids) => (float[B,3] y) <float[3,2] w = {1,2,3,4,5,6}>
        { x = Gather (w, ids)
          t = Transpose <perm = [1, 0]> (w)
          y = MatMul (x, t) }""",
        "its result has 24 bytes; max_bytes leaves 0 to grow by",
    )


@pytest.mark.parametrize(
    "operation",
    [
        "RandomNormal <shape = [2]> ()",
        "RandomUniformLike (a)",
        "Bernoulli (a)",
        "Exp (a)",
        "MatMul (a, a)",
        "Max (a, a)",
        "Cast <to = 7> (not_finite)",
    ],
)
def test_what_is_random_or_differs_between_implementations_stays(operation: str) -> None:
    check_ignores(
        FoldConstants(),
        f"""g (float[2] x) => (y) <float[2] a = {{1.5,2}}, float[2] not_finite = {{1,3e38}}>
        {{ y = {operation} }}""",
    )


def test_integer_division_by_zero_stays() -> None:
    check_ignores(
        FoldConstants(),
        """g () => (int64[1] y) <int64[1] a = {1}, int64[1] zero = {0}> { y = Div (a, zero) }""",
    )


def test_what_the_evaluator_cannot_compute_stays() -> None:
    """ONNX's evaluator picks by ``numpy.choose``, which takes 64 rows at most."""
    check_declines(
        FoldConstants(),
        f"""g () => (float[65,2] y) <float[65,2] x = {{{", ".join(["1"] * 130)}}},
            int64[65,2] places = {{{", ".join(["0"] * 130)}}}>
        {{ y = GatherElements <axis = 0> (x, places) }}""",
        "ONNX's evaluator cannot compute it",
    )


def test_constants_inside_subgraphs_fold() -> None:
    original = module_from(
        """g (bool flag, float[2] x) => (float[2] y) <float[2] a = {1,2}>
        { y = If (flag) <
            then_branch = t () => (float[2] p) { q = Add (a, a)
                                                 p = Mul (x, q) },
            else_branch = e () => (float[2] r) { r = Neg (x) }> }"""
    )
    result, _ = run_pass(FoldConstants(), original)
    assert sorted(node.op_type for node in result.nodes()) == ["If", "Mul", "Neg"]
    check_numbers(FoldConstants.numerics, original, result)


@pytest.mark.parametrize("option", ["max_bytes=-1", "max_bytes=many", "size=3"])
def test_options_that_make_no_sense_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match="fold-constants"):
        parse_pass_list(f"fold-constants{{{option}}}")


FLOATS = numpy_strategies.arrays(
    np.float32, (2, 3), elements=st.floats(allow_nan=True, allow_infinity=True, width=32)
)
INTEGERS = numpy_strategies.arrays(np.int64, (2, 3), elements=st.integers(-(2**40), 2**40))
FLOAT_OPERATIONS = [
    "Add (a, b)",
    "Sub (a, b)",
    "Mul (a, b)",
    "Div (a, b)",
    "Neg (a)",
    "Abs (a)",
    "Sqrt (a)",
    "Less (a, b)",
    "GreaterOrEqual (a, b)",
    "Equal (a, b)",
    "IsNaN (a)",
    "Cast <to = 10> (a)",
    "Cast <to = 11> (a)",
    "Cast <to = 9> (a)",
    "Transpose <perm = [1, 0]> (a)",
    "Concat <axis = 1> (a, b)",
    "Trilu (a)",
]
INTEGER_OPERATIONS = [
    "Add (a, b)",
    "Mul (a, b)",
    "Div (a, b)",
    "Max (a, b)",
    "Min (a, b)",
    "Cast <to = 1> (a)",
    "Cast <to = 6> (a)",
    "Less (a, b)",
]


@settings(max_examples=60, deadline=None)
@given(left=FLOATS, right=FLOATS, operation=st.sampled_from(FLOAT_OPERATIONS))
def test_folded_floats_are_onnxruntimes_to_the_bit(
    left: Array, right: Array, operation: str
) -> None:
    check_folding(left, right, operation, "float")


@settings(max_examples=40, deadline=None)
@given(left=INTEGERS, right=INTEGERS, operation=st.sampled_from(INTEGER_OPERATIONS))
def test_folded_integers_are_onnxruntimes_to_the_bit(
    left: Array, right: Array, operation: str
) -> None:
    if operation.startswith("Div"):
        right = np.where(right == 0, 1, right)
    check_folding(left, right, operation, "int64")


def check_folding(left: Array, right: Array, operation: str, dtype: str) -> None:
    text = f"""g () => (y) <{dtype}[2,3] a = {{0,0,0,0,0,0}}, {dtype}[2,3] b = {{0,0,0,0,0,0}}>
        {{ y = {operation} }}"""
    original = module_from(text)
    for name, array in (("a", left), ("b", right)):
        if name in original.graph.initializers:
            original.graph.initializers[name].const_value = ir.tensor(array, name=name)
    expected = run_module(original, {})["y"]
    result, _ = run_pass(FoldConstants(), original)
    assert [node.op_type for node in result.graph] == ["Identity"]
    found = run_module(result, {})["y"]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    if found.dtype.kind == "f":
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(expected)[numbers])
