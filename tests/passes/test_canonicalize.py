"""The pass ``canonicalize`` as a whole: inlining, clean-up, names, repetition."""

from __future__ import annotations

import pytest

from dechaff.ir import ModelRejectedError, structural_diff, to_text
from dechaff.passes.canonicalize import Canonicalize
from tests.passes.rewrite_checks import (
    check_ignores,
    check_numbers,
    check_rewrite,
    module_from,
    run_pass,
)

SEVERAL_RULES = """
    g (float[B,S] x) => (float[B,1,S] y)
    <float two = {2}, int64[1] zero = {0}>
    {
        same = Cast <to = 1> (x)
        a = Div (same, two)
        b = Div (x, two)
        c = Add (a, b)
        wide = Unsqueeze (c, zero)
        wider = Unsqueeze (wide, zero)
        narrow = Squeeze (wider, zero)
        there = Transpose <perm = [1, 0, 2]> (narrow)
        y = Identity (there)
    }
"""


def test_equal_nodes_and_equal_weights_become_one() -> None:
    check_rewrite(
        Canonicalize(),
        """g (float[B,2] x) => (float[B,2] y) <float[2] c = {3,5}, float[2] d = {3,5}>
        { a = Mul (x, c)
          b = Mul (x, d)
          y = Add (a, b) }""",
        """g (float[B,2] x) => (float[B,2] y) <float[2] c = {3,5}>
        { a = Mul (x, c)
          y = Add (a, a) }""",
    )


def test_equal_random_nodes_stay_apart() -> None:
    check_ignores(
        Canonicalize(),
        """g (float[B,2] x) => (float[B,2] y)
        { a = Bernoulli (x)
          b = Bernoulli (x)
          y = Add (a, b) }""",
    )


def test_functions_of_the_model_are_inlined_and_keep_their_origin() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 23, "own" : 1]>
    g (float[B,2] x) => (float[B,2] y) { [call] y = own.Twice (x) }
    <domain: "own", opset_import: ["" : 23]>
    Twice (x) => (y) { y = Add (x, x) }
    """
    result, record = run_pass(Canonicalize(), module_from(text))
    assert [node.op_type for node in result.graph] == ["Add"]
    assert record.rewrites[0].rule == "inline-functions"
    assert record.rewrites[0].origins == ("call",)
    check_numbers(Canonicalize.numerics, module_from(text), result)


def test_functions_of_the_dialect_stay_whole() -> None:
    check_ignores(
        Canonicalize(),
        """g (bool[B,S] mask) => (int64[T] index, int64[N] cu, int64[B,S] position)
        { index, cu, position = dechaff.TokenLayout (mask) }""",
    )


def test_functions_that_explode_are_refused() -> None:
    calls = "\n".join(
        f"""<domain: "own", opset_import: ["" : 23, "own" : 1]>
        F{i} (x) => (y) {{ a = own.F{i + 1} (x)
        y = own.F{i + 1} (a) }}"""
        for i in range(40)
    )
    text = f"""
    <ir_version: 10, opset_import: ["" : 23, "own" : 1]>
    g (float[B] x) => (float[B] y) {{ y = own.F0 (x) }}
    {calls}
    <domain: "own", opset_import: ["" : 23]>
    F40 (x) => (y) {{ y = Neg (x) }}
    """
    with pytest.raises(ModelRejectedError, match="refusing to expand"):
        run_pass(Canonicalize(), module_from(text))


def test_functions_that_call_themselves_are_refused() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 23, "own" : 1]>
    g (float[B] x) => (float[B] y) { y = own.F (x) }
    <domain: "own", opset_import: ["" : 23, "own" : 1]>
    F (x) => (y) { y = own.G (x) }
    <domain: "own", opset_import: ["" : 23, "own" : 1]>
    G (x) => (y) { y = own.F (x) }
    """
    with pytest.raises(ModelRejectedError, match="call themselves: "):
        run_pass(Canonicalize(), module_from(text))


def test_functions_of_another_opset_are_refused() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 23, "own" : 1]>
    g (float[B] x) => (float[B] y) { y = own.F (x) }
    <domain: "own", opset_import: ["" : 17]>
    F (x) => (y) { y = Neg (x) }
    """
    with pytest.raises(ModelRejectedError, match="cannot inline functions: Opset mismatch"):
        run_pass(Canonicalize(), module_from(text))


def test_long_chains_of_functions_are_inlined() -> None:
    calls = "\n".join(
        f"""<domain: "own", opset_import: ["" : 23, "own" : 1]>
        F{i} (x) => (y) {{ y = own.F{i + 1} (x) }}"""
        for i in range(300)
    )
    text = f"""
    <ir_version: 10, opset_import: ["" : 23, "own" : 1]>
    g (float[B] x) => (float[B] y) {{ y = own.F0 (x) }}
    {calls}
    <domain: "own", opset_import: ["" : 23]>
    F300 (x) => (y) {{ y = Neg (x) }}
    """
    result, _ = run_pass(Canonicalize(), module_from(text))
    assert [node.op_type for node in result.graph] == ["Neg"]


def test_rules_reach_into_subgraphs() -> None:
    text = """
    g (bool flag, float[B] x) => (float[B] y) <float one = {1}>
    { y = If (flag) <
        then_branch = t () => (float[B] a) { b = Mul (x, one)
                                             a = Neg (b) },
        else_branch = e () => (float[B] c) { c = Mul (x, one) }> }
    """
    original = module_from(text)
    result, _ = run_pass(Canonicalize(), original)
    assert sorted(node.op_type for node in result.nodes()) == ["Identity", "If", "Neg"]
    check_numbers(Canonicalize.numerics, original, result)


def test_an_input_that_is_an_output_gets_a_node_and_keeps_both_names() -> None:
    text = "g (float[B] x) => (float[B] y) <float one = {1}> { y = Mul (x, one) }"
    result, _ = run_pass(Canonicalize(), module_from(text))
    assert [node.op_type for node in result.graph] == ["Identity"]
    assert [value.name for value in result.graph.outputs] == ["y"]


def test_a_second_run_changes_nothing() -> None:
    result, _ = run_pass(Canonicalize(), module_from(SEVERAL_RULES))
    again, record = run_pass(Canonicalize(), result)
    assert not record.changed
    assert structural_diff(result, again) == ""


def test_result_is_the_same_text_each_time() -> None:
    texts = {to_text(run_pass(Canonicalize(), module_from(SEVERAL_RULES))[0]) for _ in range(2)}
    assert len(texts) == 1


def test_a_branch_that_gives_an_outer_value_copies_it() -> None:
    before = module_from(
        """g (bool which, float[B,2] x) => (float[B,2] y)
        { outside = Neg (x)
          z = If (which) <then_branch = then () => (float[B,2] a) { same = Dropout (outside)
                                                                    a = Identity (same) },
                          else_branch = other () => (float[B,2] b) { b = Abs (x) }>
          y = Add (z, outside) }"""
    )
    after, record = run_pass(Canonicalize(), before)
    assert "own-subgraph-outputs" in [rewrite.rule for rewrite in record.rewrites]
    check_numbers(Canonicalize.numerics, before, after)
