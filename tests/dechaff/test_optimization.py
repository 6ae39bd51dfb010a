from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import dechaff
from dechaff import OptimizedModel, UsageError, VerificationFailedError
from dechaff.ir import InputRejectedError, Module, parse
from dechaff.passes import Pass, Rewriter

from .examples import (
    UNKNOWN_OPERATOR,
    AddOne,
    Decline,
    SwapOperands,
    ZeroPadding,
    ZeroPaddingSilently,
    linear,
    masked_encoder,
)


def _optimize(module: Any, *passes: Pass, **options: Any) -> OptimizedModel:
    return dechaff.optimize(module.model, passes=list(passes), progress=False, **options)


def _encoder_inputs() -> dict[str, np.ndarray]:
    return {
        "input_ids": np.array([[1, 2, 3], [4, 5, 6]]),
        "attention_mask": np.array([[1, 1, 0], [1, 0, 0]]),
    }


@pytest.mark.parametrize("verify", ["final", "each"])
def test_a_right_pass_is_verified_on_every_output(verify: str) -> None:
    report = _optimize(linear(), SwapOperands(), verify=verify).report
    assert report is not None
    assert report.verification.verified
    assert [item.output for item in report.verification.outputs] == ["y"]
    assert [record.changed for record in report.records] == [True]


def test_a_wrong_pass_fails_the_final_verification_by_name() -> None:
    with pytest.raises(VerificationFailedError) as caught:
        _optimize(linear(), SwapOperands(), AddOne())
    message = str(caught.value)
    assert "output 'y'" in message
    assert "maximum absolute error 1" in message
    assert "the pass at fault is add-one, rewrite 1 of 1 (add-one at " in message
    assert "dechaff bisect MODEL.onnx --passes swap-operands,add-one -o repro" in message
    assert 'verify="each"' in message


def test_the_command_to_find_the_fault_names_the_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a model.onnx"
    ir.save(linear().model, path)
    with pytest.raises(VerificationFailedError) as caught:
        dechaff.optimize(path, passes=[AddOne()], progress=False)
    assert f"dechaff bisect '{path}' --passes add-one -o repro" in str(caught.value)


def test_a_wrong_pass_is_left_out_with_a_warning_when_each_is_checked() -> None:
    optimized = _optimize(linear(), AddOne(), SwapOperands(), verify="each")
    plain = _optimize(linear())
    report = optimized.report
    assert report is not None
    assert [record.changed for record in report.records] == [False, True]
    assert any(text.startswith("pass add-one was left out") for text in report.warnings)
    x = np.ones((2, 4), dtype=np.float32)
    assert np.allclose(optimized.run({"x": x})["y"], plain.run({"x": x})["y"])


@pytest.mark.parametrize("verify", ["final", "each"])
def test_a_wrong_lowering_is_told_from_a_wrong_pass(
    verify: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lower_wrongly(module: Module, target: str) -> Module:
        lowered = module.clone()
        AddOne().apply(lowered, Rewriter(lowered))
        return lowered

    monkeypatch.setattr("dechaff.target_lowering.lower", lower_wrongly)
    with pytest.raises(VerificationFailedError, match="no pass is at fault, the lowering for"):
        _optimize(linear(), SwapOperands(), verify=verify)


def test_nothing_is_compared_when_verification_is_off() -> None:
    report = _optimize(linear(), AddOne(), verify="off").report
    assert report is not None
    assert not report.verification.verified
    assert "not verified: verification is off" in str(report)


@pytest.mark.parametrize("verify", ["final", "each"])
def test_padded_positions_may_become_zero_where_a_pass_declares_it(verify: str) -> None:
    optimized = _optimize(masked_encoder(), ZeroPadding(), verify=verify)
    assert optimized.report is not None
    assert optimized.report.verification.verified
    assert not optimized.report.warnings
    hidden = optimized.run(_encoder_inputs())["hidden"]
    assert (hidden[0, 2] == 0).all()
    assert (hidden[0, 1] != 0).any()


def test_padded_positions_may_not_become_zero_silently() -> None:
    with pytest.raises(VerificationFailedError, match="zero-padding-silently"):
        _optimize(masked_encoder(), ZeroPaddingSilently())


def test_example_inputs_are_verified_first() -> None:
    report = _optimize(masked_encoder(), example_inputs=_encoder_inputs()).report
    assert report is not None
    assert report.verification.cases[0] == "example inputs"
    assert report.sizes["B"] == 2


def test_example_inputs_that_do_not_fit_are_rejected_before_any_work() -> None:
    with pytest.raises(InputRejectedError, match="unknown input 'ids'; missing input 'input_ids'"):
        _optimize(masked_encoder(), example_inputs={"ids": 1, "attention_mask": 2})


def test_an_unknown_operator_passes_through_and_the_report_says_it_was_not_verified() -> None:
    optimized = _optimize(parse(UNKNOWN_OPERATOR), SwapOperands())
    assert [node.op_type for node in optimized.module.graph] == ["Add", "Mystery"]
    assert optimized.report is not None
    assert not optimized.report.verification.verified
    (warning,) = optimized.report.warnings
    assert warning.startswith("not verified: the original does not load in ONNX Runtime")
    assert "com.example" in warning


def test_a_case_that_the_original_does_not_run_is_skipped_and_told() -> None:
    module = parse("""
        <ir_version: 10, opset_import: ["" : 23]>
        pairs (float[B,4] x) => (float[R,8] y)
        <int64[2] shape = {-1, 8}>
        { y = Reshape (x, shape) }""")
    report = _optimize(module).report
    assert report is not None
    assert report.verification.verified
    assert [name for name, _ in report.verification.skipped] == ["batch of 1"]
    assert "skipped case 'batch of 1'" in str(report)


def test_a_model_without_attention_is_said_to_have_none() -> None:
    report = _optimize(linear()).report
    assert report is not None
    assert "the model has no attention that dechaff recognizes" in report.notes


def test_a_pass_that_declines_is_reported_with_the_op_that_stopped_it() -> None:
    report = _optimize(linear(), Decline()).report
    assert report is not None
    assert any("the weight is too square, at float[B,4] product" in note for note in report.notes)
    assert "because the weight is too square" in report.explain()


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_a_config_file_sets_what_the_arguments_leave_open(
    tmp_path: pathlib.Path, suffix: str
) -> None:
    path = tmp_path / f"settings{suffix}"
    text = {".json": '{"target": "portable", "verify": "off"}'}
    path.write_text(text.get(suffix, 'target = "portable"\nverify = "off"\n'))
    report = dechaff.optimize(linear().model, config=path, progress=False).report
    assert report is not None
    assert (report.target, report.verification.mode) == ("portable", "off")
    report = dechaff.optimize(linear().model, config=path, verify="each", progress=False).report
    assert report is not None
    assert report.verification.mode == "each"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "gpu"}, "there is no target 'gpu': choose auto, cpu, openvino, portable"),
        ({"verify": "never"}, "there is no verify 'never': choose final, each, off"),
        ({"passes": "defualt"}, "there is no pass 'defualt': did you mean default"),
        ({"config": {"pases": "none"}}, "there is no setting 'pases': did you mean passes"),
        ({"config": "missing.toml"}, "missing.toml: cannot read the config file"),
    ],
)
def test_what_does_not_exist_is_a_usage_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dechaff.optimize(linear().model, progress=False, **options)


def test_an_object_that_is_no_model_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"cannot optimize a builtins\.dict: expected a torch"):
        dechaff.optimize({}, progress=False)


def test_a_model_may_be_a_path_a_proto_or_an_ir_model(tmp_path: pathlib.Path) -> None:
    module = linear()
    path = tmp_path / "linear.onnx"
    ir.save(module.model, path)
    x = np.ones((1, 4), dtype=np.float32)
    for model in (path, str(path), ir.to_proto(module.model), module.model):
        assert dechaff.optimize(model, progress=False).run({"x": x})["y"].shape == (1, 4)


def test_the_callers_model_is_not_changed() -> None:
    module = linear()
    before = [node.op_type for node in module.graph]
    _optimize(module, SwapOperands())
    assert [node.op_type for node in module.graph] == before


def test_progress_counts_every_step_up_to_the_total() -> None:
    calls: list[tuple[int, int, str]] = []
    dechaff.optimize(
        linear().model,
        passes=[SwapOperands()],
        progress=lambda done, total, text: calls.append((done, total, text)),
    )
    assert [done for done, _, _ in calls] == list(range(len(calls)))
    assert {total for _, total, _ in calls} == {len(calls) - 1}
    assert "swap-operands" in [text for _, _, text in calls]


def test_no_progress_is_shown_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    dechaff.optimize(linear().model, progress=None)
    assert capfd.readouterr() == ("", "")


def test_the_report_as_json_holds_formulas_and_figures() -> None:
    report = _optimize(linear(), SwapOperands()).report
    assert report is not None
    data = json.loads(report.to_json())
    (step,) = data["passes"]
    assert step["name"] == "swap-operands"
    assert step["rewrites"] == {"swap": 1}
    assert step["before"]["flops_formula"] == "36*B"
    assert step["before"]["flops"] == 36 * data["sizes"]["B"]
    assert data["verification"]["verified"] is True
    assert "onnxruntime" in data["versions"]


def test_packed_tokens_are_no_size_of_a_model_without_them() -> None:
    report = _optimize(linear(), SwapOperands()).report
    assert report is not None
    assert list(report.sizes) == ["B"]


def test_the_report_prints_as_a_table_with_the_verification_figures() -> None:
    optimized = _optimize(linear(), SwapOperands())
    text = str(optimized.report)
    assert "swap x1" in text
    assert "y: maximum absolute error" in text
    assert "swap x1" in optimized._repr_html_()
