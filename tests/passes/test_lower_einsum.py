from __future__ import annotations

import pytest

from dechaff.ir import graph_cost
from dechaff.passes.lower_einsum import LowerEinsum
from tests.passes.rewrite_checks import (
    check_declines,
    check_ignores,
    check_numbers,
    module_from,
    run_pass,
)

CASES = [
    ("bind,bjnd->bnij", "B,S,2,4", "B,S,2,4"),
    ("bnij,bjnd->bind", "B,2,S,S", "B,S,2,4"),
    ("bhqd,bhkd->bhqk", "B,2,S,4", "B,2,S,4"),
    ("ij,jk", "S,4", "4,3"),
    ("ij,jk->ki", "S,4", "4,3"),
    ("binh,tnh->bnit", "B,S,2,4", "T,2,4"),
    ("bnid,ijd->bnij", "B,2,S,4", "S,T,4"),
    ("bsd,dnh->bsnh", "B,S,4", "4,2,3"),
    ("bsd,dnh->bnsh", "B,S,4", "4,2,3"),
    ("bsnh,nhd->bsd", "B,S,2,3", "2,3,4"),
    ("bnid,bnjd->nbij", "B,2,S,4", "B,2,S,4"),
    ("i,j->ij", "S", "4"),
    ("bi,j->jbi", "B,S", "4"),
    ("bij,bj->bij", "B,S,4", "B,4"),
]


def graph(equation: str, left: str, right: str) -> str:
    result = equation.partition("->")[2] or "ik"
    inputs = dict(
        zip(
            equation.partition("->")[0].replace(",", ""),
            (left + "," + right).split(","),
            strict=True,
        )
    )
    shape = ",".join(inputs[label] for label in result)
    return f"""g (float[{left}] a, float[{right}] b) => (float[{shape}] y) {{
        y = Einsum <equation = "{equation}"> (a, b) }}"""


@pytest.mark.parametrize(("equation", "left", "right"), CASES, ids=[case[0] for case in CASES])
def test_a_product_keeps_its_numbers(equation: str, left: str, right: str) -> None:
    before = module_from(graph(equation, left, right))
    after, record = run_pass(LowerEinsum(), before)
    assert record.changed
    assert "Einsum" not in {node.op_type for node in after.graph}
    check_numbers(LowerEinsum.numerics, before, after)
    for sizes in ({"B": 2, "S": 5, "T": 7}, {"B": 1, "S": 1, "T": 1}):
        assert graph_cost(after).at(sizes)[0] <= graph_cost(before).at(sizes)[0]


@pytest.mark.parametrize(
    ("equation", "left", "right", "reason"),
    [
        ("ij,jk->k", "S,4", "4,3", "sums over an axis of one operand alone"),
        ("ii,ij->ij", "4,4", "4,3", "takes a diagonal"),
        ("...i,ij->...j", "S,4", "4,3", "leaves axes unnamed"),
        ("bi,bi->b", "B,4", "B,4", "an operand has no axis of its own"),
        ("ij,jk->ik", "S,T", "B,3", "not known to be equal"),
        ("bij,kij->bk", "B,S,4", "3,S,4", "the size of 'i' is not known to be fixed"),
    ],
)
def test_what_is_no_product_of_matrices_stays(
    equation: str, left: str, right: str, reason: str
) -> None:
    result = equation.partition("->")[2].replace("...", "i")
    shape = ",".join("?" for _ in result)
    text = f"""g (float[{left}] a, float[{right}] b) => (float[{shape}] y) {{
        y = Einsum <equation = "{equation}"> (a, b) }}"""
    check_declines(LowerEinsum(), text, reason)


def test_bfloat16_stays() -> None:
    text = """g (bfloat16[S,4] a, bfloat16[4,3] b) => (bfloat16[S,3] y) {
        y = Einsum <equation = "ij,jk->ik"> (a, b) }"""
    check_declines(LowerEinsum(), text, "no MatMul of bfloat16")


def test_one_operand_stays() -> None:
    text = 'g (float[B,S] a) => (float[S,B] y) { y = Einsum <equation = "ij->ji"> (a) }'
    check_ignores(LowerEinsum(), text)
