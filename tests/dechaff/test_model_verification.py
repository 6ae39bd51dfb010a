from __future__ import annotations

import json
import pathlib
import threading
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

import dechaff
from dechaff import reference
from dechaff.command_line import cli
from dechaff.input_generation import generate_inputs
from dechaff.ir import parse
from dechaff.model_import import import_model
from dechaff.reference import Reference

from .examples import LINEAR, MASKED_ENCODER, ZeroPadding, masked_encoder, numbers

TWO_STEPS = """
<ir_version: 10, opset_import: ["" : 23]>
steps (float[B,4] x) => (float[B,4] y)
<float two = {2}, float three = {3}>
{
    doubled = Mul (x, two)
    shifted = Add (doubled, three)
    y = Sigmoid (shifted)
}
"""
WIDE_WEIGHT = f"16,16] weight = {numbers(16, 16)}"
RENAMED = TWO_STEPS.replace("doubled", "first").replace("shifted", "second")
RENAMED = RENAMED.replace(" y ", " out ").replace("x)", "data)").replace("(x,", "(data,")
RENAMED = RENAMED.replace("y)", "out)")


def _write(folder: pathlib.Path, name: str, text: str) -> pathlib.Path:
    path = folder / name
    ir.save(parse(text).model, path)
    return path


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_a_model_agrees_with_itself_on_all_figures() -> None:
    result = dechaff.verify(parse(TWO_STEPS).model, parse(TWO_STEPS).model)
    assert result.agree
    assert result.divergence is None
    (output,) = result.outputs
    assert output.closeness is not None
    assert output.closeness.max_abs_error == 0.0
    assert output.closeness.cosine == pytest.approx(1.0)
    assert output.closeness.argmax_agreement == 1.0


def test_figures_say_how_far_two_models_are_apart() -> None:
    negated = LINEAR.replace("y = Add (product, x)", "sum = Add (product, x)\n y = Neg (sum)")
    result = dechaff.verify(parse(LINEAR).model, parse(negated).model)
    (output,) = result.outputs
    assert output.closeness is not None
    assert output.closeness.cosine == pytest.approx(-1.0)
    assert output.closeness.argmax_agreement == pytest.approx(1 / 9)  # the one row of zeros
    assert 0 < output.closeness.mean_abs_error < output.closeness.max_abs_error


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (("Mul (x, two)", "Mul (x, three)"), "doubled"),
        (("Add (doubled, three)", "Sub (doubled, three)"), "shifted"),
        (("Sigmoid (shifted)", "Tanh (shifted)"), "y"),
    ],
)
def test_the_first_diverging_value_is_named(change: tuple[str, str], value: str) -> None:
    result = dechaff.verify(parse(TWO_STEPS).model, parse(TWO_STEPS.replace(*change)).model)
    assert not result.agree
    assert result.divergence is not None
    assert result.divergence.value == value
    assert change[0].partition(" ")[0] in result.divergence.node
    assert change[1].partition(" ")[0] in result.divergence.other_node


def test_values_match_by_their_computation_where_names_differ() -> None:
    wrong = RENAMED.replace("Add (first, three)", "Add (first, two)")
    result = dechaff.verify(parse(TWO_STEPS).model, parse(RENAMED).model)
    assert result.agree
    result = dechaff.verify(parse(TWO_STEPS).model, parse(wrong).model)
    assert not result.agree
    wrong = RENAMED.replace("Sigmoid (second)", "Neg (second)")
    result = dechaff.verify(parse(TWO_STEPS).model, parse(wrong).model)
    assert result.problem is not None
    assert "output 'y'" in result.problem


def test_a_difference_from_which_nothing_wrong_follows_is_not_named() -> None:
    text = TWO_STEPS.replace(
        "y = Sig", "gone = Sub (doubled, doubled)\n kept = Add (x, gone)\n y = Sig"
    )
    text = text.replace("Sigmoid (shifted)", "Sigmoid (kept)")
    other = text.replace("Mul (x, two)", "Mul (x, three)").replace("Sigmoid", "Tanh")
    result = dechaff.verify(parse(text).model, parse(other).model)
    assert result.divergence is not None
    assert result.divergence.value == "y"


def test_the_origin_of_fused_nodes_leads_to_the_value_that_differs(tmp_path: pathlib.Path) -> None:
    dechaff.optimize(masked_encoder().model, passes=[ZeroPadding()]).save(tmp_path / "b.onnx")
    right = dechaff.verify(_write(tmp_path, "a.onnx", MASKED_ENCODER), tmp_path / "b.onnx")
    assert right.agree
    reverse = dechaff.verify(tmp_path / "b.onnx", tmp_path / "a.onnx")
    assert reverse.agree


def test_inputs_of_the_user_are_the_only_case() -> None:
    module = parse(LINEAR)
    x = np.ones((2, 4), dtype=np.float32)
    assert dechaff.verify(module.model, module.model, {"x": x}).cases == ("example inputs",)
    assert dechaff.verify(module.model, module.model, (x,)).cases == ("example inputs",)


def test_different_interfaces_are_a_usage_error() -> None:
    with pytest.raises(dechaff.UsageError, match="has the inputs x; encoder has input_ids, att"):
        dechaff.verify(parse(LINEAR).model, parse(MASKED_ENCODER).model)


def test_the_command_prints_figures_and_ends_in_4_where_models_differ(
    tmp_path: pathlib.Path,
) -> None:
    first = _write(tmp_path, "a.onnx", TWO_STEPS)
    second = _write(tmp_path, "b.onnx", TWO_STEPS.replace("Mul (x, two)", "Mul (x, three)"))
    same = _run("verify", first, first)
    assert (same.exit_code, same.stderr) == (0, "")
    assert "agree" in same.stdout
    result = _run("verify", first, second)
    assert result.exit_code == 4
    assert "first diverging value doubled" in result.stdout
    assert result.stderr.startswith("dechaff: error: b.onnx differs from a.onnx: output 'y'")
    assert result.stderr.count("\n") == 1


def test_the_command_prints_json_and_takes_inputs(tmp_path: pathlib.Path) -> None:
    first = _write(tmp_path, "a.onnx", TWO_STEPS)
    np.savez(tmp_path / "x.npz", x=np.ones((1, 4), dtype=np.float32))
    result = _run("verify", first, first, "--inputs", tmp_path / "x.npz", "--json")
    data = json.loads(result.stdout)
    assert data["agree"] is True
    assert data["cases"] == ["example inputs"]
    assert data["outputs"][0]["closeness"]["max_abs_error"] == 0


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_is_no_model_ends_in_3(tmp_path: pathlib.Path, which: int) -> None:
    paths: list[object] = [_write(tmp_path, "a.onnx", TWO_STEPS)] * 2
    paths[which] = tmp_path / "damaged.onnx"
    (tmp_path / "damaged.onnx").write_bytes(b"\x08no model")
    assert _run("verify", *paths).exit_code == 3


def test_a_reference_that_runs_beside_other_work_gives_the_same() -> None:
    module = masked_encoder()
    cases = generate_inputs(module)
    waited, begun = Reference(module, cases), Reference(module, cases).begin()
    assert begun.few.cases == waited.few.cases
    assert [case.name for case in begun.cases] == [case.name for case in cases]
    for left, right in zip(waited.outputs, begun.outputs, strict=True):
        np.testing.assert_array_equal(left["hidden"], right["hidden"])


def test_weights_in_files_are_opened_before_two_threads_read_them(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = LINEAR.replace("B,4", "B,16").replace(f"4,4] weight = {numbers(4, 4)}", WIDE_WEIGHT)
    ir.save(parse(wide).model, tmp_path / "a.onnx", external_data="w", size_threshold_bytes=0)
    module = import_model(tmp_path / "a.onnx")
    threads: list[threading.Thread] = []
    load: Callable[[ir.ExternalTensor], None] = ir.ExternalTensor._load

    def recorded(tensor: ir.ExternalTensor) -> None:
        threads.append(threading.current_thread())
        load(tensor)

    monkeypatch.setattr(ir.ExternalTensor, "_load", recorded)
    assert Reference(module, generate_inputs(module)).begin().reason is None
    assert set(threads) == {threading.current_thread()}


def test_what_stops_a_reference_beside_other_work_is_told_to_who_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = masked_encoder()

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(reference, "Session", fail)
    monkeypatch.setattr(reference, "limited_memory", lambda: 1)
    begun = Reference(module, generate_inputs(module)).begin()
    with pytest.raises(MemoryError, match="no room"):
        _ = begun.reason
