from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dechaff.passes.fuse_gelu import FuseGelu
from tests.passes.rewrite_checks import (
    check_cost,
    check_declines,
    check_ignores,
    check_numbers,
    check_rewrite,
    module_from,
    run_pass,
)

CONSTANTS = """<float root_two = {1.4142135}, float inverse_root_two = {0.70710677},
    float one = {1}, float half = {0.5}, float two = {2}, float three = {3},
    float cubic = {0.044715}, float root = {0.7978845608}, float cubic_root = {0.0356774081},
    float tenth = {0.1}, float quick = {1.702}>"""

ERF = {
    "divided argument, half last": """a = Div (x, root_two)
        e = Erf (a)
        p = Add (e, one)
        q = Mul (x, p)
        y = Mul (q, half)""",
    "multiplied argument, swapped operands": """a = Mul (inverse_root_two, x)
        e = Erf (a)
        p = Add (one, e)
        q = Mul (p, x)
        y = Mul (half, q)""",
    "half times the sum": """a = Div (x, root_two)
        e = Erf (a)
        p = Add (e, one)
        q = Mul (half, p)
        y = Mul (x, q)""",
    "half of x first": """h = Mul (x, half)
        a = Mul (x, inverse_root_two)
        e = Erf (a)
        p = Add (e, one)
        y = Mul (h, p)""",
    "divided by two": """a = Div (x, root_two)
        e = Erf (a)
        p = Add (e, one)
        q = Mul (x, p)
        y = Div (q, two)""",
    "sum of two halves": """h = Mul (x, half)
        a = Mul (x, inverse_root_two)
        e = Erf (a)
        q = Mul (h, e)
        y = Add (h, q)""",
}

TANH = {
    "cube by Pow": """c = Pow (x, three)
        d = Mul (cubic, c)
        s = Add (x, d)
        a = Mul (root, s)
        e = Tanh (a)
        p = Add (one, e)
        h = Mul (half, x)
        y = Mul (h, p)""",
    "cube by Mul, swapped operands": """x2 = Mul (x, x)
        c = Mul (x2, x)
        d = Mul (c, cubic)
        s = Add (d, x)
        a = Mul (s, root)
        e = Tanh (a)
        p = Add (e, one)
        q = Mul (p, half)
        y = Mul (q, x)""",
    "factored as in FastGelu": """k = Mul (x, root)
        w = Mul (cubic, x)
        v = Mul (w, x)
        u = Add (v, one)
        a = Mul (k, u)
        e = Tanh (a)
        p = Add (e, one)
        q = Mul (x, p)
        y = Mul (half, q)""",
    "both constants multiplied out": """x2 = Mul (x, x)
        c = Mul (cubic_root, x2)
        s = Add (root, c)
        a = Mul (x, s)
        e = Tanh (a)
        p = Add (e, one)
        h = Mul (x, half)
        y = Mul (h, p)""",
}


def graph(body: str) -> str:
    return f"g (float[B,S,6] x) => (float[B,S,6] y) {CONSTANTS} {{ {body} }}"


def fused(approximate: str) -> str:
    return f"""g (float[B,S,6] x) => (float[B,S,6] y)
        {{ y = Gelu <approximate = "{approximate}"> (x) }}"""


@pytest.mark.parametrize("body", ERF.values(), ids=ERF.keys())
def test_erf_spellings_become_exact_gelu(body: str) -> None:
    check_rewrite(FuseGelu(), graph(body), fused("none"))


@pytest.mark.parametrize("body", TANH.values(), ids=TANH.keys())
def test_tanh_spellings_become_tanh_gelu(body: str) -> None:
    check_rewrite(FuseGelu(), graph(body), fused("tanh"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Div (x, root_two)", "Div (x, one)", "in the argument of Erf, a factor is 1 where 0.7071"),
        ("Add (e, one)", "Add (e, two)", "around Erf, a factor is 1 where 0.5 belongs"),
        ("Mul (q, half)", "Mul (q, tenth)", "around Erf, a factor is 0.1 where 0.5 belongs"),
    ],
)
def test_each_constant_of_erf_gelu_alone_stops_it(old: str, new: str, reason: str) -> None:
    body = ERF["divided argument, half last"]
    assert old in body
    check_declines(FuseGelu(), graph(body.replace(old, new)), reason)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Mul (cubic, c)", "Mul (tenth, c)", "in the argument of Tanh"),
        ("Mul (root, s)", "Mul (half, s)", "in the argument of Tanh"),
        ("Add (one, e)", "Add (two, e)", "around Tanh"),
        ("Mul (half, x)", "Mul (tenth, x)", "around Tanh"),
    ],
)
def test_each_constant_of_tanh_gelu_alone_stops_it(old: str, new: str, reason: str) -> None:
    body = TANH["cube by Pow"]
    assert old in body
    check_declines(FuseGelu(), graph(body.replace(old, new)), reason)


def test_a_constant_that_differs_beyond_float32_accuracy_stops_it() -> None:
    text = graph(ERF["divided argument, half last"]).replace("1.4142135", "1.41422")
    check_declines(FuseGelu(), text, "in the argument of Erf")


def test_another_exponent_is_not_gelu() -> None:
    check_ignores(FuseGelu(), graph(TANH["cube by Pow"].replace("Pow (x, three)", "Pow (x, two)")))


def test_quick_gelu_stays() -> None:
    check_ignores(
        FuseGelu(),
        graph("""a = Mul (x, quick)
                 s = Sigmoid (a)
                 y = Mul (x, s)"""),
    )


def test_plain_tanh_and_erf_stay() -> None:
    check_ignores(FuseGelu(), graph("a = Tanh (x)\n y = Erf (a)"))


def test_the_two_inputs_must_be_the_same_value() -> None:
    text = graph(ERF["divided argument, half last"].replace("Mul (x, p)", "Mul (other, p)"))
    check_ignores(FuseGelu(), text.replace("x) =>", "x, float[B,S,6] other) =>"))


def test_an_inner_value_used_elsewhere_stops_it() -> None:
    text = graph(ERF["divided argument, half last"]).replace(
        "(float[B,S,6] y)", "(float[B,S,6] y, float[B,S,6] p)"
    )
    check_declines(FuseGelu(), text, "a value inside it is used elsewhere")


def test_a_constant_that_adds_a_dimension_stops_it() -> None:
    text = graph(ERF["divided argument, half last"]).replace("float half", "float[1,1,1,1] half")
    check_declines(
        FuseGelu(), text.replace("(float[B,S,6] y)", "(float[1,B,S,6] y)"), "to more dimensions"
    )


def test_an_input_that_is_itself_scaled_is_found() -> None:
    check_rewrite(
        FuseGelu(),
        graph("x1 = Mul (x, tenth)\n" + ERF["half times the sum"].replace("(x,", "(x1,")),
        f"""g (float[B,S,6] x) => (float[B,S,6] y) {CONSTANTS}
        {{ x1 = Mul (x, tenth)
           y = Gelu <approximate = "none"> (x1) }}""",
    )


def test_two_gelus_of_one_input_both_fuse() -> None:
    original = module_from(
        graph("""a = Div (x, root_two)
            e = Erf (a)
            p = Add (e, one)
            q = Mul (x, p)
            exact = Mul (q, half)
            k = Mul (x, root)
            w = Mul (cubic, x)
            v = Mul (w, x)
            u = Add (v, one)
            b = Mul (k, u)
            t = Tanh (b)
            r = Add (t, one)
            s = Mul (x, r)
            approximate = Mul (half, s)
            y = Add (exact, approximate)""")
    )
    result, record = run_pass(FuseGelu(), original)
    assert [node.op_type for node in result.graph] == ["Gelu", "Gelu", "Add"]
    assert len(record.rewrites) == 2
    check_numbers(FuseGelu.numerics, original, result)
    check_cost(original, result)


@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 3), length=st.integers(1, 9), body=st.sampled_from([*ERF.values()]))
def test_numbers_hold_at_any_size(batch: int, length: int, body: str) -> None:
    check_rewrite(FuseGelu(), graph(body), fused("none"), sizes=[{"B": batch, "S": length}])


def test_half_precision_constants_are_held_to_their_own_accuracy() -> None:
    body = ERF["divided argument, half last"]
    root_two, one, half = (int(np.float16(c).view(np.uint16)) for c in (math.sqrt(2), 1, 0.5))
    text = f"""g (float16[B,S,6] x) => (float16[B,S,6] y)
        <float16 root_two = {{{root_two}}}, float16 one = {{{one}}}, float16 half = {{{half}}}>
        {{ {body} }}"""
    result, _ = run_pass(FuseGelu(), module_from(text))
    assert [node.op_type for node in result.graph] == ["Gelu"]
