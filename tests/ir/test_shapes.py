from __future__ import annotations

import pytest

from dechaff.ir import infer_shapes, parse, value_type_text

TEMPLATE = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[B,S,12] x, int64[B,S] ids) => (float[?] y)
    <int64[4] split = {{0, 0, 3, 4}}, int64[1] minus_one = {{-1}}, int64[1] width = {{12}},
     int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64 first = {{0}},
     int64 second = {{1}}, int64[1] three = {{3}}, int64[1] big = {{9223372036854775807}},
     int64[2] ends = {{0, 1}}, float[2,12] table = {{1,2,3,4,5,6,7,8,9,10,11,12,
     1,2,3,4,5,6,7,8,9,10,11,12}}>
    {{
        {body}
    }}
"""

CASES = {
    "Reshape by copied sizes": ("r = Reshape (x, split)", "float[B,S,3,4]"),
    "Reshape by computed sizes": (
        "sizes = Shape (x)\n b = Gather (sizes, first)\n bu = Unsqueeze (b, zero)\n"
        "s = Slice (sizes, one, two, zero)\n t = Concat <axis = 0> (bu, s, three, minus_one)\n"
        "r = Reshape (x, t)",
        "float[B,S,3,4]",
    ),
    "Reshape that merges": (
        "t = Concat <axis = 0> (minus_one, width)\n r = Reshape (x, t)",
        "float[B*S,12]",
    ),
    "Reshape by arithmetic on sizes": (
        "b = Shape <end = 1> (x)\n s = Shape <start = 1, end = 2> (x)\n m = Mul (b, s)\n"
        "t = Concat <axis = 0> (m, width)\n r = Reshape (x, t)",
        "float[B*S,12]",
    ),
    "Expand to computed sizes": (
        "h = ReduceMean <keepdims = 1> (x, two)\n sizes = Shape (x)\n r = Expand (h, sizes)",
        "float[B,S,12]",
    ),
    "Expand where a size is asked to stay": (
        "c = ConstantOfShape <value = int64[1] {1}> (three)\n h = ReduceMean (x, two)\n"
        "r = Expand (h, c)",
        "float[B,S,1]",
    ),
    "Range over a size": (
        "s = Shape <start = 1, end = 2> (x)\n e = Squeeze (s)\n r = Range (first, e, second)",
        "int64[S]",
    ),
    "Slice up to a size": (
        "s = Shape <start = 1, end = 2> (ids)\n t = Transpose <perm = [1, 0, 2]> (x)\n"
        "r = Slice (t, zero, s, zero)",
        "float[S,B,12]",
    ),
    "Gather from a table": ("r = Gather (table, ids)", "float[B,S,12]"),
    "a filled tensor": ("s = Shape (ids)\n r = ConstantOfShape (s)", "float[B,S]"),
    "sizes chosen by comparison": (
        "c = Constant <value = int64[2] {-1, 5}> ()\n n = Constant <value = int64[1] {-1}> ()\n"
        "is = Equal (c, n)\n own = Shape (ids)\n t = Where (is, own, c)\n"
        "m = ReduceMean (x, two)\n q = Transpose <perm = [0, 2, 1]> (m)\n"
        "p = Squeeze (q, one)\n r = Reshape (p, own)",
        "float[B,S]",
    ),
    "matrix product": (
        "t = Transpose <perm = [0, 2, 1]> (x)\n r = MatMul (x, t)",
        "float[B,S,S]",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_sizes_keep_their_names(case: str) -> None:
    body, expected = CASES[case]
    module = parse(TEMPLATE.format(body=body))
    infer_shapes(module)
    values = {out.name: out for node in module.graph for out in node.outputs}
    assert value_type_text(values["r"]) == expected


def test_what_is_known_already_is_kept() -> None:
    module = parse(TEMPLATE.format(body="r = Relu (x)"))
    value = next(iter(module.graph)).outputs[0]
    infer_shapes(module)
    before = value.shape
    infer_shapes(module)
    assert value.shape == before


def test_foreign_operators_do_not_stop_inference() -> None:
    module = parse(
        '<ir_version: 10, opset_import: ["" : 23, "other" : 1]>\n'
        "g (float[B,4] x) => (float[B,4] y) { h = other.Strange (x) z = Relu (h) y = Relu (x) }"
    )
    infer_shapes(module)
    values = {out.name: out for node in module.graph for out in node.outputs}
    assert value_type_text(values["y"]) == "float[B,4]"
    assert values["h"].shape is None
