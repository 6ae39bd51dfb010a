"""The reference functions of the fused operators, against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dechaff.ir import graph_cost
from tests.model_runner import Array, random_inputs, run_module
from tests.passes.rewrite_checks import module_from

SIZES = [{"B": 1, "S": 1}, {"B": 2, "S": 5}]
SIGNATURE = """g (float[B,S,6] x, float[B,S,6] skip, float[6] weight, float[6] bias,
    float[6] dense_bias)"""

_erf = np.vectorize(math.erf)


def gelu(x: Array, approximate: str) -> Array:
    if approximate == "none":
        return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def layer_normalization(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    variance = (centered**2).mean(-1, keepdims=True)
    return np.asarray(centered / np.sqrt(variance + epsilon) * weight + bias)


def rms_normalization(x: Array, weight: Array, epsilon: float) -> Array:
    return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight)


def outputs_of(body: str, outputs: str, sizes: dict[str, int]) -> tuple[dict[str, Array], ...]:
    """What the graph gives, and its inputs in double precision."""
    module = module_from(f"{SIGNATURE} => ({outputs}) {{ {body} }}")
    inputs = random_inputs(module, sizes)
    wide = {name: array.astype(np.float64) for name, array in inputs.items()}
    return run_module(module, inputs), wide


def assert_close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_bias_gelu(approximate: str, sizes: dict[str, int]) -> None:
    found, given = outputs_of(
        f'y = dechaff.BiasGelu <approximate = "{approximate}"> (x, bias)', "float[B,S,6] y", sizes
    )
    assert_close(found["y"], gelu(given["x"] + given["bias"], approximate))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("epsilon", [1e-12, 0.5])
def test_skip_layer_normalization(epsilon: float, sizes: dict[str, int]) -> None:
    found, given = outputs_of(
        f"y, sum = dechaff.SkipLayerNormalization <epsilon = {epsilon}> (x, skip, weight, bias)",
        "float[B,S,6] y, float[B,S,6] sum",
        sizes,
    )
    total = given["x"] + given["skip"]
    assert_close(found["sum"], total)
    assert_close(found["y"], layer_normalization(total, given["weight"], given["bias"], epsilon))


@pytest.mark.parametrize("sizes", SIZES)
def test_bias_skip_layer_normalization(sizes: dict[str, int]) -> None:
    found, given = outputs_of(
        """y, sum = dechaff.BiasSkipLayerNormalization <epsilon = 0.1>
            (x, skip, weight, bias, dense_bias)""",
        "float[B,S,6] y, float[B,S,6] sum",
        sizes,
    )
    total = given["x"] + given["dense_bias"] + given["skip"]
    assert_close(found["sum"], total)
    assert_close(found["y"], layer_normalization(total, given["weight"], given["bias"], 0.1))


@pytest.mark.parametrize("sizes", SIZES)
def test_skip_rms_normalization(sizes: dict[str, int]) -> None:
    found, given = outputs_of(
        "y, sum = dechaff.SkipRMSNormalization <epsilon = 0.1> (x, skip, weight)",
        "float[B,S,6] y, float[B,S,6] sum",
        sizes,
    )
    total = given["x"] + given["skip"]
    assert_close(found["sum"], total)
    assert_close(found["y"], rms_normalization(total, given["weight"], 0.1))


@pytest.mark.parametrize(
    ("fused", "chain"),
    [
        (
            'y = dechaff.BiasGelu <approximate = "none"> (x, bias)',
            "a = Add (x, bias)\n y = Gelu (a)",
        ),
        (
            "y, sum = dechaff.SkipLayerNormalization <epsilon = 0.1> (x, skip, weight, bias)",
            "a = Add (x, skip)\n y = LayerNormalization (a, weight, bias)",
        ),
        (
            """y, sum = dechaff.BiasSkipLayerNormalization <epsilon = 0.1>
                (x, skip, weight, bias, dense_bias)""",
            """b = Add (x, dense_bias)
               a = Add (b, skip)
               y = LayerNormalization (a, weight, bias)""",
        ),
        (
            "y, sum = dechaff.SkipRMSNormalization <epsilon = 0.1> (x, skip, weight)",
            "a = Add (x, skip)\n y = RMSNormalization (a, weight)",
        ),
    ],
    ids=["BiasGelu", "SkipLayerNormalization", "BiasSkipLayerNormalization", "SkipRMS"],
)
def test_a_fused_operator_costs_the_flops_of_its_chain_and_moves_less(
    fused: str, chain: str
) -> None:
    costs = [
        graph_cost(module_from(f"{SIGNATURE} => (float[B,S,6] y) {{ {body} }}"))
        for body in (fused, chain)
    ]
    assert costs[0].flops == costs[1].flops
    assert costs[0].at({"B": 2, "S": 5})[1] < costs[1].at({"B": 2, "S": 5})[1]
