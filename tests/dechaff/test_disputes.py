"""Narrow misses: float64 tells rounding from a fault."""

from __future__ import annotations

import numpy as np
import pytest

import dechaff
from dechaff.double_precision import NotInDoubleError, run_in_double
from dechaff.ir import Module, parse
from dechaff.passes import Numerics, Pass, Rewriter

from .examples import MASKED_ENCODER

HEADER = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>\n'
INTERFACE = (
    "g (float[B,4] x) => (float[B,4] y)\n"
    "<float large = {1000000}, float off = {10.005}, float ten = {10}>\n"
)
PLAIN = HEADER + INTERFACE + "{ t = Mul (x, ten) y = Mul (t, ten) }"
CANCELLING = (
    HEADER
    + INTERFACE
    + ("{ t = Mul (x, ten) u = Mul (t, ten) v = Add (u, large) y = Sub (v, large) }")
)
"""Equal in exact arithmetic; in float32 the sum keeps the result to the next integer only."""


def compared(first: str, second: str) -> dechaff.ModelComparison:
    inputs = {"x": np.linspace(0.01, 1, 40, dtype=np.float32).reshape(10, 4)}
    return dechaff.verify(parse(first).model, parse(second).model, inputs)


class Rewrite(Pass):
    """Puts the operations of another text in place of the model's."""

    name = "rewrite"
    numerics = Numerics.REASSOCIATES
    cancels = False

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        last = module.graph[-1]
        with rewriter.rewrite("rewrite", list(module.graph)) as builder:
            value = module.graph.inputs[0]
            for _ in range(2):
                value = builder.op("Mul", [value, module.graph.initializers["ten"]])
            if self.cancels:
                for op_type in ("Add", "Sub"):
                    value = builder.op(op_type, [value, module.graph.initializers["large"]])
            builder.replace(last.outputs[0], value)


class Cancel(Rewrite):
    name = "cancel"
    cancels = True


def test_a_result_nearer_to_the_truth_than_the_originals_is_no_fault() -> None:
    result = compared(CANCELLING, PLAIN)
    (figures,) = [item.figures for item in result.outputs]
    assert figures.max_abs_error > figures.limit
    assert result.agree
    assert "the second is nearer" in (figures.settled or "")


def test_a_result_further_from_the_truth_is_one() -> None:
    problem = compared(PLAIN, CANCELLING).problem
    assert problem is not None
    assert "in float64 the two graphs differ by 0;" in problem
    assert "the first is nearer" in problem


def test_results_that_are_rounded_alike_are_no_fault() -> None:
    """As in a row that sees nothing but a mask of -10000, whatever the order of summation."""
    other = CANCELLING.replace("large = {1000000}", "large = {1500000}")  # rounded twice as roughly
    for first, second in ((CANCELLING, other), (other, CANCELLING)):
        result = compared(first, second)
        assert result.outputs[0].figures.max_abs_error > result.outputs[0].figures.limit
        assert result.agree, result.problem


def test_a_fault_that_is_narrow_is_a_fault_in_float64_too() -> None:
    problem = compared(PLAIN, PLAIN.replace("y = Mul (t, ten)", "y = Mul (t, off)")).problem
    assert problem is not None
    assert "in float64 the two graphs differ by 0.05" in problem


@pytest.mark.parametrize("mode", ["each", "final"])
def test_optimizing_asks_float64_too(mode: str) -> None:
    inputs = {"x": np.linspace(0.01, 1, 40, dtype=np.float32).reshape(10, 4)}
    optimized = dechaff.optimize(
        parse(CANCELLING).model, inputs, passes=[Rewrite()], verify=mode, progress=False
    )
    assert optimized.report is not None
    assert optimized.report.verification.verified
    assert [record.changed for record in optimized.report.records] == [True]
    assert "in float64" in str(optimized.report)


def test_every_float_of_a_model_is_widened() -> None:
    text = (
        HEADER
        + """
g (float16[B,2] x, bool c) => (float16[B,2] y) <float[2] w = {1, 2}>
{
    wide = Cast <to = 1> (x)
    half = Constant <value_float = 0.1> ()
    many = Constant <value_floats = [0.1, 0.2]> ()
    a = Mul (wide, half)
    b = Add (a, many)
    shape = Shape (b)
    zeros = ConstantOfShape (shape)
    d = Add (b, zeros)
    e = If (c) <then_branch = p () => (float p0)
            { k = Constant <value = float {0.3}> () p0 = Mul (d, k) },
                else_branch = q () => (float q0) { q0 = Identity (d) }>
    narrow = Cast <to = 10> (e)
    back = CastLike (narrow, w)
    z = Mul (back, w)
    y = Cast <to = 10> (z)
}
"""
    )
    found = run_in_double(parse(text), {"x": np.ones((3, 2), np.float16), "c": np.array(True)})
    assert found["y"].dtype == np.float64
    expected = np.array([0.2, 0.3]) * np.float64(np.float32(0.3)) * [1, 2]
    np.testing.assert_allclose(found["y"], np.tile(expected, (3, 1)), rtol=1e-7)


def test_the_runtimes_own_gelu_is_the_standard_one() -> None:
    text = HEADER + "g (float[B,4] x) => (float[B,4] y) {{ y = {} (x) }}"
    inputs = {"x": np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)}
    runtimes, standard = (
        run_in_double(parse(text.format(name)), inputs)["y"]
        for name in ("com.microsoft.Gelu", "Gelu")
    )
    np.testing.assert_array_equal(runtimes, standard)


def test_what_cannot_run_in_float64_is_told() -> None:
    text = HEADER + "g (float[B,4] x) => (float[B,4] y) { y = com.microsoft.QuickGelu (x) }"
    with pytest.raises(NotInDoubleError, match="QuickGelu"):
        run_in_double(parse(text), {"x": np.ones((1, 4), np.float32)})


def test_a_model_too_large_for_the_reference_is_told() -> None:
    inputs = {"input_ids": np.zeros((1, 2), np.int64), "attention_mask": np.ones((1, 2), np.int64)}
    assert run_in_double(parse(MASKED_ENCODER), inputs)["hidden"].shape == (1, 2, 4)
    huge = {name: np.broadcast_to(array, (2**40, 2)) for name, array in inputs.items()}
    with pytest.raises(NotInDoubleError, match="too large"):
        run_in_double(parse(MASKED_ENCODER), huge)
