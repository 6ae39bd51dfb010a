"""``dechaff explain``: what fired, and the nearest misses."""

from __future__ import annotations

import json
import pathlib

import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from dechaff.command_line import cli
from tests.passes.rewrite_checks import module_from

MASK_TURNED_AROUND = """
    g (float[B,2,S,4] q, float[B,2,4,S] kt, float[B,2,S,4] v, float[B,1,1,S] mask)
        => (float[B,2,S,4] y)
    <float half = {0.3}, float minus = {-1}>
    { r = MatMul (q, kt)
      m = Add (r, mask)
      s = Mul (m, minus)
      p = Softmax <axis = -1> (s)
      y = MatMul (p, v) }
"""


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "in.onnx"
    ir.save(module_from(MASK_TURNED_AROUND).model, path)
    return path


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["explain", *map(str, arguments)])


def test_the_failed_condition_and_the_node_are_shown(model: pathlib.Path) -> None:
    result = explain(model, "--pass", "fuse-attention")
    assert result.exit_code == 0, result.output
    first, what, where = result.stdout.splitlines()
    assert first == "fuse-attention: changed nothing"
    assert "did not apply: a factor behind the mask turns it around" in what
    assert "= MatMul (" in where


def test_what_fired_is_shown(model: pathlib.Path) -> None:
    right = MASK_TURNED_AROUND.replace("Add (r, mask)", "Mul (r, half)")
    right = right.replace("Mul (m, minus)", "Add (m, mask)")
    ir.save(module_from(right).model, model)
    result = explain(model, "--pass", "fuse-attention")
    assert "fuse-attention: fuse-scaled-dot-product-attention x1" in result.stdout


def test_every_pass_is_told_of_without_a_choice(model: pathlib.Path) -> None:
    told = [line for line in explain(model).stdout.splitlines() if not line.startswith(" ")]
    assert len(told) > 3
    assert "  nothing in the graph comes near its patterns" in explain(model).stdout


def test_json_holds_the_same(model: pathlib.Path) -> None:
    (record,) = json.loads(explain(model, "--json", "--pass", "fuse-attention").stdout)
    assert record["pass"] == "fuse-attention"
    assert record["rewrites"] == []
    assert "behind the mask" in record["near_misses"][0]["reason"]


def test_a_pass_that_does_not_run_is_refused(model: pathlib.Path) -> None:
    for arguments in (["--pass", "nonsense"], ["--pass", "fuse-gelu", "--passes", "canonicalize"]):
        result = explain(model, *arguments)
        assert result.exit_code == 2
        assert arguments[1] in result.stderr
