from __future__ import annotations

import pytest

from dechaff.passes.padding.mask_facts import MaskFacts, Visibility
from tests.passes.rewrite_checks import module_from

TEMPLATE = """
    g ({dtype}[B,S] mask, float[B,S] other, bool[1,1,S,S] causal) => ({result}[?,?,?,?] m)
    <int64[2] axes = {{1,2}}, int64[1] q_axis = {{2}}, int64[2] k_axes = {{1,3}},
     float one = {{1}}, float zero = {{0}}, float lowest = {{-3.4e38}}, float mild = {{-100}},
     float bert = {{-10000}}, int64 nothing = {{0}}, int64 step = {{1}},
     int64[1] front = {{0}}, int64[1] second = {{1}}>
    {{
        {body}
    }}
"""


def facts(body: str, dtype: str = "int64", result: str = "float") -> tuple[bool, Visibility | None]:
    """Whether mask ``m`` hides padded keys, and what it lets valid queries see."""
    module = module_from(TEMPLATE.format(body=body, dtype=dtype, result=result))
    root = module.graph.inputs[0]
    found = MaskFacts(root)
    output = module.graph.outputs[0]
    return found.hides_padded_keys(output), found.among_valid(output)


FORBIDDEN = """
        padded = Cast <to = 9> (mask)
        shown = Unsqueeze (padded, axes)
        keys = Where (shown, zero, lowest)
        length = Shape <start = 1> (mask)
        square = Concat <axis = 0> (length, length)
        full = Expand (lowest, square)
"""


@pytest.mark.parametrize(
    ("triangle", "expected"),
    [
        ("Trilu <upper = 1> (full, step)", (True, Visibility.CAUSAL)),
        ("Trilu <upper = 1> (full)", (False, None)),
        ("Trilu <upper = 1> (full, nothing)", (False, None)),
        ("Trilu <upper = 0> (full)", (True, None)),
        ("Trilu <upper = 0> (full, step)", (False, None)),
    ],
)
def test_a_triangle_of_one_number_is_a_causal_mask(
    triangle: str, expected: tuple[bool, Visibility | None]
) -> None:
    body = f"{FORBIDDEN} future = {triangle}\n m = Add (keys, future)"
    assert facts(body) == expected


HIDES_ONLY = {
    "one minus mask, times the lowest float": (
        "f = Cast <to = 1> (mask)\n u = Unsqueeze (f, axes)\n i = Sub (one, u)\n"
        "m = Mul (i, lowest)",
        "int64",
        "float",
    ),
    "one minus mask, times BERT's -10000": (
        "f = Cast <to = 1> (mask)\n u = Unsqueeze (f, axes)\n i = Sub (one, u)\n m = Mul (i, bert)",
        "int32",
        "float",
    ),
    "selection by a bool mask": (
        "u = Unsqueeze (mask, axes)\n m = Where (u, zero, lowest)",
        "bool",
        "float",
    ),
    "selection by an inverted mask": (
        "b = Cast <to = 9> (mask)\n n = Not (b)\n u = Unsqueeze (n, axes)\n"
        "m = Where (u, lowest, zero)",
        "int64",
        "float",
    ),
    "a bool mask as it is": ("m = Unsqueeze (mask, axes)", "bool", "bool"),
    "a float mask compared": (
        "u = Unsqueeze (mask, axes)\n m = Greater (u, zero)",
        "float",
        "bool",
    ),
    "compared with zero": (
        "c = Equal (mask, nothing)\n n = Not (c)\n m = Unsqueeze (n, axes)",
        "int64",
        "bool",
    ),
    "joined with positions that are never negative": (
        "shape = Shape <start = 1> (mask)\n length = Squeeze (shape)\n"
        "r = Range (nothing, length, step)\n ok = GreaterOrEqual (r, nothing)\n"
        "b = Cast <to = 9> (mask)\n u = Unsqueeze (b, axes)\n m = And (ok, u)",
        "int64",
        "bool",
    ),
    "masking queries and keys alike": (
        "q = Unsqueeze (mask, q_axis)\n k = Unsqueeze (mask, front)\n"
        "k3 = Transpose <perm = [1, 0, 2]> (k)\n a = And (q, k3)\n m = Unsqueeze (a, second)",
        "bool",
        "bool",
    ),
    "raised to a floor": (
        "f = Cast <to = 1> (mask)\n u = Unsqueeze (f, axes)\n i = Sub (one, u)\n"
        "s = Mul (i, lowest)\n m = Max (s, bert)",
        "int64",
        "float",
    ),
}


@pytest.mark.parametrize("case", HIDES_ONLY)
def test_mask_is_shown_to_hide_padded_keys_and_nothing_else(case: str) -> None:
    body, dtype, result = HIDES_ONLY[case]
    assert facts(body, dtype, result) == (True, Visibility.FULL)


POSITIONS = (
    "shape = Shape <start = 1> (mask)\n length = Squeeze (shape)\n"
    "r = Range (nothing, length, step)\n column = Unsqueeze (r, second)\n"
)
PADDING = "b = Cast <to = 9> (mask)\n u = Unsqueeze (b, axes)\n"
TRIANGLE = "t = Constant <value = bool[1,1,3,3] {1,0,0,1,1,0,1,1,1}> ()\n"

CAUSAL = {
    "key position at most query position": "v = LessOrEqual (r, column)\n m = And (v, u)",
    "query position at least key position": "v = GreaterOrEqual (column, r)\n m = And (u, v)",
    "not a later key": "v = Greater (r, column)\n n = Not (v)\n m = And (u, n)",
    "positions shifted by nothing": "q = Add (column, nothing)\n v = LessOrEqual (r, q)\n"
    "m = And (v, u)",
}


@pytest.mark.parametrize("case", CAUSAL)
def test_causal_mask_beside_padding(case: str) -> None:
    body = POSITIONS + PADDING + CAUSAL[case]
    assert facts(body, result="bool") == (True, Visibility.CAUSAL)


def test_causal_mask_from_a_constant_triangle() -> None:
    body = PADDING + TRIANGLE + "m = And (t, u)"
    assert facts(body, result="bool") == (True, Visibility.CAUSAL)


def test_causal_mask_as_an_additive_bias() -> None:
    body = (
        POSITIONS + PADDING + "v = LessOrEqual (r, column)\n a = And (v, u)\n"
        "m = Where (a, zero, lowest)"
    )
    assert facts(body) == (True, Visibility.CAUSAL)


NEITHER = {
    "a mask of unknown content": "m = And (causal, u)",
    "strictly earlier keys": "v = Less (r, column)\n m = And (v, u)",
    "later keys": "v = GreaterOrEqual (r, column)\n m = And (v, u)",
    "positions shifted": "q = Add (column, step)\n v = LessOrEqual (r, q)\n m = And (v, u)",
    "a window": "v = LessOrEqual (r, column)\n back = Sub (column, step)\n"
    "w = Greater (r, back)\n vw = And (v, w)\n m = And (vw, u)",
}


@pytest.mark.parametrize("case", NEITHER)
def test_hides_padded_keys_but_shows_neither_all_nor_the_past(case: str) -> None:
    assert facts(POSITIONS + PADDING + NEITHER[case], result="bool") == (True, None)


HIDDEN = "inverted = Not (u)\n hidden = Where (inverted, lowest, zero)\n"
TABLE = "table = Constant <value = float[3,1] {-2, 0.5, 7}> ()\n"
BIASES = {
    "a table of relative positions": TABLE + "d = Sub (r, column)\n e = Abs (d)\n"
    "last = Constant <value = int64 {2}> ()\n i = Min (e, last)\n rows = Gather (table, i)\n"
    "t = Transpose <perm = [2, 0, 1]> (rows)\n bias = Unsqueeze (t, front)\n"
    "m = Add (hidden, bias)",
    "slopes times positions": "slope = Constant <value = float[1,3,1,1] {-0.5, -0.25, -0.125}> ()\n"
    "f = Cast <to = 1> (r)\n bias = Mul (slope, f)\n m = Add (bias, hidden)",
    "slopes times positions counted among the valid": (
        "slope = Constant <value = float[1,3,1,1] {0.5, 0.25, 0.125}> ()\n"
        "sums = CumSum (mask, step)\n s4 = Unsqueeze (sums, axes)\n f = Cast <to = 1> (s4)\n"
        "bias = Mul (slope, f)\n m = Add (bias, hidden)"
    ),
}


@pytest.mark.parametrize("case", BIASES)
def test_a_bounded_bias_cannot_bring_padded_keys_back(case: str) -> None:
    assert facts(POSITIONS + PADDING + HIDDEN + BIASES[case]) == (True, None)


def test_a_bias_of_unknown_size_may_bring_padded_keys_back() -> None:
    body = PADDING + HIDDEN + "o4 = Unsqueeze (other, axes)\n m = Add (o4, hidden)"
    assert facts(body) == (False, None)


def test_a_bias_as_large_as_the_mask_brings_padded_keys_back() -> None:
    large = "slope = Constant <value = float[1,3,1,1] {1e30, 1e31, 1e32}> ()\n"
    body = "f = Cast <to = 1> (r)\n bias = Mul (slope, f)\n m = Add (bias, hidden)"
    assert facts(POSITIONS + PADDING + HIDDEN + large + body)[0] is False


NOT_SHOWN = {
    "a bias too mild to hide a key": (
        "f = Cast <to = 1> (mask)\n u = Unsqueeze (f, axes)\n i = Sub (one, u)\n m = Mul (i, mild)",
        "int64",
        "float",
    ),
    "a mask the wrong way round": (
        "u = Unsqueeze (mask, axes)\n m = Where (u, lowest, zero)",
        "bool",
        "float",
    ),
    "padded or causal": ("u = Unsqueeze (mask, axes)\n m = Or (causal, u)", "bool", "bool"),
    "another input": (
        "u = Unsqueeze (other, axes)\n m = Mul (u, lowest)",
        "bool",
        "float",
    ),
    "keys shifted by one": (
        "big = Constant <value = int64[1] {9223372036854775807}> ()\n"
        "t = Slice (mask, second, big, second)\n m = Unsqueeze (t, axes)",
        "bool",
        "bool",
    ),
    "the mask on the query axis only": ("m = Unsqueeze (mask, k_axes)", "bool", "bool"),
}


@pytest.mark.parametrize("case", NOT_SHOWN)
def test_what_cannot_be_shown_is_not_assumed(case: str) -> None:
    body, dtype, result = NOT_SHOWN[case]
    assert facts(body, dtype, result)[0] is False
