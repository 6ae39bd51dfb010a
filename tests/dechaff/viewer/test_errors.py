"""The error overlay: where values part, by colour, sign and number."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from click.testing import CliRunner

import dechaff
from dechaff.command_line import cli
from dechaff.ir import UsageError, VerificationFailedError
from dechaff.trace_file import read_trace
from dechaff.trace_models import trace_of_models
from tests.dechaff.examples import LINEAR, AddOne, linear
from tests.dechaff.viewer.browsing import Pages, details

OTHER = LINEAR.replace("MatMul (x, weight)", "Sub (x, x)")


@pytest.fixture
def undone(tmp_path: pathlib.Path) -> dict[str, Any]:
    """A run whose only pass is wrong and left out."""
    path = tmp_path / "run.dechaff"
    dechaff.optimize(linear().model, passes=[AddOne()], verify="each", trace=path, progress=False)
    return read_trace(path)


def test_the_values_of_a_wrong_pass_are_recorded(undone: dict[str, Any]) -> None:
    step = undone["steps"][0]
    assert step["undone"]
    errors = step["node_errors"]
    error, limit = errors["errors"][errors["first"]]
    assert error == pytest.approx(1.0, rel=1e-5)  # the pass adds one
    assert error > limit
    right = [pair for name, pair in errors["errors"].items() if name != errors["first"]]
    assert any(error <= limit for error, limit in right)


def test_a_run_that_fails_at_the_end_records_where_values_part(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.dechaff"
    with pytest.raises(VerificationFailedError):
        dechaff.optimize(linear().model, passes=[AddOne()], trace=path, progress=False)
    trace = read_trace(path)
    assert "add-one" in trace["error"]
    assert trace["steps"][-1]["node_errors"]["first"] is not None


def test_the_first_divergence_is_flagged_and_coloured(pages: Pages, undone: dict[str, Any]) -> None:
    page = pages.open(undone, "pass=1&expand=all&view=overlay")
    assert page.locator(".flag").count() == 0
    page.check("#errors")
    first = undone["steps"][0]["node_errors"]["first"]
    assert page.locator(".flag").count() == 1
    flagged = page.locator(".leaf", has=page.locator(".flag"))
    assert flagged.get_attribute("data-id") == first
    assert "≠ off by 1.0e+0" in (flagged.text_content() or "")
    fills = {
        name: page.locator(f".leaf.{name} .box").first.evaluate("one => getComputedStyle(one).fill")
        for name in ("heat-0", "heat-5")
    }
    assert fills["heat-0"] != fills["heat-5"]
    page.click("#first-error")
    assert "here first" in details(page)


def test_closed_modules_have_the_colour_of_their_worst_value(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    steps = [dict(step) for step in bert_trace["steps"]]
    inside = next(
        name
        for name, node in bert_trace["initial"]["nodes"].items()
        if node.get("path", "").startswith("encoder.layer.1.output")
    )
    steps[0]["node_errors"] = {"case": "c", "errors": {inside: [5.0, 1e-3]}, "first": inside}
    page = pages.open(bert_trace | {"steps": steps}, "pass=1&errors")
    selector = '.pane.after [data-id="encoder.layer.1"]'
    assert page.locator(f"{selector}.heat-4").count() == 1
    assert page.locator(f"{selector} .flag").count() == 1
    assert page.locator('.pane.after [data-id="encoder.layer.0"].heat-4').count() == 0


def test_two_files_are_run_and_compared(pages: Pages, tmp_path: pathlib.Path) -> None:
    import onnx

    for name, text in (("a", LINEAR), ("b", OTHER)):
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
    trace = trace_of_models(tmp_path / "a.onnx", tmp_path / "b.onnx", errors=True)
    errors = trace["steps"][0]["node_errors"]
    assert trace["initial"]["nodes"][errors["first"]]["op"] in ("MatMul", "Add")
    page = pages.open(trace, "errors&view=overlay")
    assert page.locator(".flag").count() == 1


def test_errors_need_two_models(tmp_path: pathlib.Path) -> None:
    done = CliRunner().invoke(cli, ["view", str(tmp_path / "a.onnx"), "--errors"])
    assert done.exit_code == UsageError.exit_code
    assert "two ONNX files" in done.output
