from __future__ import annotations

import pytest

from dechaff.ir import (
    ModelRejectedError,
    graph_lines,
    infer_shapes,
    node_text,
    parse,
    structural_diff,
    to_text,
)
from tests.model_runner import random_inputs, run_module

HEADER = '<ir_version: 10, opset_import: ["" : 23, "dechaff" : 1]>\n'
DENSE = (
    HEADER
    + """
    g (float[B,S,4] x) => (float[B,S,4] y) <float[4] bias = {1, 2, 3, 4}>
    {
        h = Add (x, bias)
        y = Gelu <approximate = "tanh"> (h)
    }
"""
)


def test_a_module_survives_the_round_trip_through_text() -> None:
    module = parse(DENSE)
    again = parse(to_text(module))
    assert structural_diff(module, again) == ""
    inputs = random_inputs(module)
    assert run_module(module, inputs)["y"].tobytes() == run_module(again, inputs)["y"].tobytes()


def test_an_operation_is_one_line_with_its_sizes() -> None:
    module = parse(DENSE)
    infer_shapes(module)
    last = list(module.graph)[-1]
    assert node_text(last) == 'float[B,S,4] y = Gelu <approximate = "tanh"> (h)'


def test_a_graph_is_listed_from_inputs_to_outputs() -> None:
    module = parse(DENSE)
    infer_shapes(module)
    assert list(graph_lines(module)) == [
        "input float[B,S,4] x",
        "float[B,S,4] h = Add (x, bias)",
        'float[B,S,4] y = Gelu <approximate = "tanh"> (h)',
        "output float[B,S,4] y",
    ]


def test_names_inside_the_graph_do_not_matter_for_the_structure() -> None:
    renamed = DENSE.replace("h =", "other =").replace("(h)", "(other)").replace("bias", "b")
    assert structural_diff(parse(DENSE), parse(renamed)) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Add", "Sub"),
        ('"tanh"', '"none"'),
        ("(x, bias)", "(bias, x)"),
        ("{1, 2, 3, 4}", "{1, 2, 3, 5}"),
    ],
)
def test_a_difference_in_structure_is_shown(old: str, new: str) -> None:
    diff = structural_diff(parse(DENSE), parse(DENSE.replace(old, new)))
    assert any(line.startswith("-") for line in diff.splitlines())
    assert any(line.startswith("+") for line in diff.splitlines())


def test_text_that_is_no_model_is_refused_with_the_place() -> None:
    with pytest.raises(ModelRejectedError, match=r"graph\.txt: not a model in ONNX text form"):
        parse("g (float[N] x => (", source="graph.txt")
