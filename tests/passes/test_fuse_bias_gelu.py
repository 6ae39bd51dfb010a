from __future__ import annotations

import pytest

from dechaff.passes.fuse_bias_gelu import FuseBiasGelu
from tests.passes.rewrite_checks import check_declines, check_ignores, check_rewrite

CONSTANTS = """<float[4] bias = {0.5, 0, -0.5, 1}, float scalar = {0.5}, float[1] one = {0.5},
    float[1,4] row = {0.5, 0, -0.5, 1}>"""


def graph(body: str, shape: str = "B,S,4", outputs: str = "") -> str:
    return f"g (float[{shape}] x) => (float[{shape}] y{outputs}) {CONSTANTS} {{ {body} }}"


@pytest.mark.parametrize("shape", ["B,S,4", "T,4"])
@pytest.mark.parametrize("operands", ["x, bias", "bias, x"])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_bias_and_gelu_fuse(approximate: str, operands: str, shape: str) -> None:
    check_rewrite(
        FuseBiasGelu(),
        graph(
            f"""biased = Add ({operands})
                y = Gelu <approximate = "{approximate}"> (biased)""",
            shape,
        ),
        graph(f'y = dechaff.BiasGelu <approximate = "{approximate}"> (x, bias)', shape),
    )


def test_gelu_without_its_attribute_is_the_exact_one() -> None:
    check_rewrite(
        FuseBiasGelu(),
        graph("biased = Add (x, bias)\n y = Gelu (biased)"),
        graph('y = dechaff.BiasGelu <approximate = "none"> (x, bias)'),
    )


@pytest.mark.parametrize("operand", ["scalar", "one", "row", "x"])
def test_an_operand_that_is_no_constant_vector_stops_it(operand: str) -> None:
    check_declines(
        FuseBiasGelu(),
        graph(f"biased = Add (x, {operand})\n y = Gelu (biased)"),
        "constant vector for the last axis",
    )


def test_a_biased_value_used_elsewhere_stops_it() -> None:
    check_declines(
        FuseBiasGelu(),
        graph("biased = Add (x, bias)\n y = Gelu (biased)", outputs=", float[B,S,4] biased"),
        "the biased value is used elsewhere",
    )


def test_gelu_without_a_bias_stays() -> None:
    check_ignores(FuseBiasGelu(), graph("y = Gelu (x)"))
