from __future__ import annotations

import pytest

from dechaff.ir import ModelRejectedError, Module, find_breaches, parse, verify

HEADER = '<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>\n'


def breaches(text: str) -> str:
    return "\n".join(find_breaches(parse(HEADER + text)))


def swapped(text: str) -> Module:
    """The module with its first two nodes in the wrong order."""
    module = parse(HEADER + text)
    first, second = list(module.graph)[:2]
    module.graph.remove(first)
    module.graph.insert_after(second, first)
    return module


def test_a_sound_graph_has_no_breach() -> None:
    assert breaches("g (float[N] x) => (float[N] y) { y = Relu (x) }") == ""


def test_use_before_computation_shows_the_op_with_its_sizes() -> None:
    module = swapped("g (float[N] x) => (float[N] y) { h = Relu (x) y = Tanh (h) }")
    with pytest.raises(ModelRejectedError) as caught:
        verify(module)
    assert "input 0 ('h') is used before it is computed" in str(caught.value)
    assert "float[N] y = Tanh (h)" in str(caught.value)


def test_wrong_number_of_inputs() -> None:
    found = breaches("g (float[N] x) => (float[N] y) { y = Relu (x, x) }")
    assert "expected 1 to 1 inputs, got 2, in" in found
    assert "Relu (x, x)" in found


def test_dialect_operator_with_too_few_inputs() -> None:
    found = breaches("g (float[B,S,4] x) => (float[T,4] y) { y = dechaff.Pack (x) }")
    assert "expected 3 to 3 inputs, got 1" in found


def test_dialect_operator_without_its_attribute() -> None:
    found = breaches(
        "g (float[T,4] q, int64[N] s, int64[K] i) => (float[T,4] y) {"
        "y = dechaff.VarlenAttention <q_num_heads = 1, kv_num_heads = 1, is_causal = 0>"
        "(q, q, q, s, i, s) }"
    )
    assert "attribute 'scale' is missing" in found


def test_dialect_operator_that_does_not_exist() -> None:
    found = breaches("g (float[N] x) => (float[N] y) { y = dechaff.Nothing (x) }")
    assert "the dialect has no operator 'Nothing'" in found


def test_all_breaches_are_told_at_once() -> None:
    found = breaches("g (float[N] x) => (float[N] y) { h = Relu (x, x) y = Tanh (h, h) }")
    assert "Relu" in found
    assert "Tanh" in found


def test_subgraphs_see_outer_values_and_are_checked_too() -> None:
    text = """
        g (float[N] x, bool c) => (float[N] y) {
            y = If (c) <then_branch = a () => (float[N] p) { p = Relu (x) },
                        else_branch = b () => (float[N] q) { q = Tanh (x, x) }>
        }
    """
    found = breaches(text)
    assert "Tanh" in found
    assert "Relu" not in found


def test_foreign_operators_pass() -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 23, "other" : 1]>\n'
        "g (float[N] x) => (float[N] y) { y = other.Strange (x) }"
    )
    assert not list(find_breaches(parse(text)))
