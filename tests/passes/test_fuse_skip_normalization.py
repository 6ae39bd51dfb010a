from __future__ import annotations

import pytest

from dechaff.passes.fuse_skip_normalization import FuseSkipNormalization
from tests.passes.rewrite_checks import check_declines, check_ignores, check_rewrite

CONSTANTS = """<float[4] dense_bias = {1, 2, 3, 4}, float[4] weight = {1, 1, 1, 2},
    float[4] bias = {0.5, 0, -0.5, 1}, float[4] weight_2 = {2, 1, 1, 1},
    float[1,4] row = {1, 2, 3, 4}>"""
NORMALIZE = "LayerNormalization <axis = -1, epsilon = 0.00001>"


def graph(body: str, outputs: str = "", shape: str = "B,S,4", extra: str = "") -> str:
    return f"""g (float[{shape}] x, float[{shape}] skip{extra}) => (float[{shape}] y{outputs})
        {CONSTANTS} {{ {body} }}"""


LAYER = f"""sum = Add (x, skip)
    y = {NORMALIZE} (sum, weight, bias)"""
RMS = """sum = Add (x, skip)
    y = RMSNormalization <axis = -1, epsilon = 0.00001> (sum, weight)"""


@pytest.mark.parametrize("shape", ["B,S,4", "T,4"])
def test_residual_and_layer_normalization_fuse(shape: str) -> None:
    check_rewrite(
        FuseSkipNormalization(),
        graph(LAYER, shape=shape),
        graph(
            """y, sum = dechaff.SkipLayerNormalization <epsilon = 0.00001>
                (x, skip, weight, bias)""",
            shape=shape,
        ),
    )


@pytest.mark.parametrize("shape", ["B,S,4", "T,4"])
def test_residual_and_rms_normalization_fuse(shape: str) -> None:
    check_rewrite(
        FuseSkipNormalization(),
        graph(RMS, shape=shape),
        graph(
            "y, sum = dechaff.SkipRMSNormalization <epsilon = 0.00001> (x, skip, weight)",
            shape=shape,
        ),
    )


@pytest.mark.parametrize(
    "body",
    [
        "biased = Add (x, dense_bias)\n sum = Add (biased, skip)",
        "biased = Add (dense_bias, x)\n sum = Add (biased, skip)",
        "biased = Add (x, dense_bias)\n sum = Add (skip, biased)",
    ],
    ids=["bias last", "bias first", "skip first"],
)
def test_bias_residual_and_normalization_fuse(body: str) -> None:
    check_rewrite(
        FuseSkipNormalization(),
        graph(f"{body}\n y = {NORMALIZE} (sum, weight, bias)"),
        graph("""y, sum = dechaff.BiasSkipLayerNormalization <epsilon = 0.00001>
            (x, skip, weight, bias, dense_bias)"""),
    )


def test_a_biased_value_used_elsewhere_stays_outside() -> None:
    check_rewrite(
        FuseSkipNormalization(),
        graph(
            f"""biased = Add (x, dense_bias)
                sum = Add (biased, skip)
                y = {NORMALIZE} (sum, weight, bias)""",
            ", float[B,S,4] biased",
        ),
        graph(
            """biased = Add (x, dense_bias)
               y, sum = dechaff.SkipLayerNormalization <epsilon = 0.00001>
                   (biased, skip, weight, bias)""",
            ", float[B,S,4] biased",
        ),
    )


def test_the_sum_serves_the_next_residual() -> None:
    check_rewrite(
        FuseSkipNormalization(),
        graph(LAYER.replace("y =", "z =") + "\n y = Add (sum, z)", ", float[B,S,4] sum"),
        graph(
            """z, sum = dechaff.SkipLayerNormalization <epsilon = 0.00001>
                   (x, skip, weight, bias)
               y = Add (sum, z)""",
            ", float[B,S,4] sum",
        ),
    )


def test_a_reader_of_the_sum_may_come_before_the_normalization() -> None:
    check_rewrite(
        FuseSkipNormalization(),
        graph(f"""sum = Add (x, skip)
            early = Neg (sum)
            z = {NORMALIZE} (sum, weight, bias)
            y = Add (early, z)"""),
        graph("""z, sum = dechaff.SkipLayerNormalization <epsilon = 0.00001>
                (x, skip, weight, bias)
            early = Neg (sum)
            y = Add (early, z)"""),
    )


def test_of_two_normalizations_of_one_sum_the_first_fuses() -> None:
    check_rewrite(
        FuseSkipNormalization(),
        graph(f"""sum = Add (x, skip)
            a = {NORMALIZE} (sum, weight, bias)
            b = {NORMALIZE} (sum, weight_2, bias)
            y = Mul (a, b)"""),
        graph(f"""a, sum = dechaff.SkipLayerNormalization <epsilon = 0.00001>
                (x, skip, weight, bias)
            b = {NORMALIZE} (sum, weight_2, bias)
            y = Mul (a, b)"""),
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Add (x, skip)", "Add (x, row)", "not known to have one shape"),
        ("axis = -1", "axis = 1", "not over the last axis"),
        ("epsilon =", "stash_type = 10, epsilon =", "statistics are not in float32"),
        ("(sum, weight, bias)", "(sum, weight)", "it has no bias"),
        ("(sum, weight, bias)", "(sum, weight, given)", "not a constant vector"),
        ("(sum, weight, bias)", "(sum, row, bias)", "not a constant vector"),
        ("y = Layer", "y, mean = Layer", "its statistics are in use"),
    ],
)
def test_each_condition_alone_stops_it(old: str, new: str, reason: str) -> None:
    outputs = ", float[B,S,1] mean" if "mean" in new else ""
    assert old in LAYER
    text = graph(LAYER.replace(old, new), outputs, extra=", float[4] given")
    check_declines(FuseSkipNormalization(), text, reason)


def test_a_normalization_of_something_else_stays() -> None:
    check_ignores(FuseSkipNormalization(), graph(LAYER.replace("Add", "Mul")))
