from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

import dechaff
from dechaff.command_line import cli
from dechaff.ir import DechaffError, parse
from dechaff.passes import PASSES, Pass, pass_list, pipelines

from .examples import (
    MASKED_ENCODER,
    UNKNOWN_OPERATOR,
    AddOne,
    Decline,
    SwapOperands,
    masked_encoder,
)


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "in.onnx"
    ir.save(masked_encoder().model, path)
    return path


@pytest.fixture
def test_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes of the tests by name, and none by default."""
    passes: tuple[type[Pass], ...] = (SwapOperands, AddOne, Decline)
    names = {"none": (), "default": ()}
    for place in (pass_list, pipelines):
        monkeypatch.setattr(place, "PASSES", passes)
        monkeypatch.setattr(place, "PIPELINES", names)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def _assert_refused(result: Result, code: int, message: str, folder: pathlib.Path) -> None:
    """One line on stderr, the documented exit code, nothing written."""
    assert result.exit_code == code
    assert result.stderr.startswith("dechaff: error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (folder / "out.onnx").exists()
    assert not list(folder.glob(".*"))


def test_optimize_writes_the_model_and_shows_the_report(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out.onnx"
    result = _run("optimize", model, "-o", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "verified on" in result.stdout
    assert f"wrote {out}" in result.stdout
    ids = np.array([[1, 2]])
    results = [dechaff.load(path)(ids, np.ones_like(ids))["hidden"] for path in (model, out)]
    assert np.allclose(*results)


@pytest.mark.parametrize("style", ["positional", "options", "input by option"])
def test_models_may_be_given_by_position_or_by_option(
    model: pathlib.Path, tmp_path: pathlib.Path, style: str
) -> None:
    out = tmp_path / "out.onnx"
    arguments = {
        "positional": (model, out),
        "options": ("--output", out, "--input", model),
        "input by option": ("-i", model, out),
    }
    assert _run("optimize", *arguments[style]).exit_code == 0
    assert out.exists()


def test_quiet_shows_nothing_and_verbose_shows_why_passes_declined(
    model: pathlib.Path, tmp_path: pathlib.Path, test_passes: None
) -> None:
    command = ("optimize", model, "-o", tmp_path / "out.onnx", "--passes", "decline")
    assert _run(*command, "-q").output == ""
    reason = "because the weight is too square"
    assert reason not in _run(*command).stdout
    assert reason in _run(*command, "-v").stdout


def test_the_report_is_written_as_json(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "report.json"
    result = _run("optimize", model, "-o", tmp_path / "out.onnx", "--report", path)
    assert result.exit_code == 0
    assert json.loads(path.read_text())["verification"]["verified"] is True


def test_the_report_on_stdout_is_json_and_nothing_else(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    result = _run("optimize", model, "-o", tmp_path / "out.onnx", "--report", "-")
    assert json.loads(result.stdout)["source"] == model.name
    assert "verified on" in result.stderr


def test_inputs_from_a_file_are_verified_on(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, input_ids=np.array([[1, 2]]), attention_mask=np.array([[1, 0]]))
    result = _run("optimize", model, "-o", tmp_path / "out.onnx", "--inputs", path)
    assert "example inputs" in result.stdout


@pytest.mark.parametrize("option", ["--save-as-external-data", "--save_as_external_data"])
def test_weights_go_to_a_file_of_their_own_when_asked(
    model: pathlib.Path, tmp_path: pathlib.Path, option: str
) -> None:
    wide = parse(f"""
        <ir_version: 10, opset_import: ["" : 23]>
        wide (float[B,4] x) => (float[B,400] y)
        <float[4,400] weight = {{{", ".join(["1"] * 1600)}}}>
        {{ y = MatMul (x, weight) }}""")
    ir.save(wide.model, model)
    out = tmp_path / "out.onnx"
    assert _run("optimize", model, out, option).exit_code == 0
    (data,) = tmp_path.glob("out.onnx.*.data")
    assert data.stat().st_size == 6400
    x = np.ones((1, 4), dtype=np.float32)
    assert (dechaff.load(out).run({"x": x})["y"] == 4).all()


def test_the_opset_of_the_written_file_is_the_one_asked_for(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out.onnx"
    assert _run("optimize", model, "-o", out, "--opset", 24).exit_code == 0
    assert ir.load(out).opset_imports[""] == 24


def test_a_config_file_is_read_and_the_command_line_wins(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = tmp_path / "dechaff.toml"
    config.write_text('target = "portable"\nverify = "off"\n')
    command = ("optimize", model, "-o", tmp_path / "out.onnx", "--config", config)
    report = json.loads(_run(*command, "--report", "-").stdout)
    assert (report["target"], report["verification"]["mode"]) == ("portable", "off")
    report = json.loads(_run(*command, "--target", "cpu", "--report", "-").stdout)
    assert report["target"] == "cpu"


def test_a_required_pass_that_applies_lets_the_output_be_written(
    model: pathlib.Path, tmp_path: pathlib.Path, test_passes: None
) -> None:
    command = ("optimize", model, "-o", tmp_path / "out.onnx", "--passes", "swap-operands")
    assert _run(*command, "--require", "swap-operands").exit_code == 0
    assert (tmp_path / "out.onnx").exists()


def test_a_required_pass_that_does_not_apply_ends_in_5_and_says_why(
    model: pathlib.Path, tmp_path: pathlib.Path, test_passes: None
) -> None:
    command = ("optimize", model, "-o", tmp_path / "out.onnx", "--passes", "decline")
    result = _run(*command, "--require", "decline")
    _assert_refused(result, 5, "decline did not apply: the weight is too square", tmp_path)


def test_a_failed_verification_ends_in_4(
    model: pathlib.Path, tmp_path: pathlib.Path, test_passes: None
) -> None:
    result = _run("optimize", model, "-o", tmp_path / "out.onnx", "--passes", "add-one")
    _assert_refused(result, 4, "the pass at fault is add-one", tmp_path)


def test_an_unknown_operator_passes_through_with_a_warning(tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    ir.save(parse(UNKNOWN_OPERATOR).model, path)
    result = _run("optimize", path, "-o", out, "-q")
    assert result.exit_code == 0
    assert result.stderr.startswith("dechaff: warning: not verified: ")
    assert [node.op_type for node in ir.load(out).graph] == ["Add", "Mystery"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--passes", "defualt"), "there is no pass 'defualt': did you mean default"),
        (("--passes", "fold constants!"), "cannot read 'fold constants!'"),
        (("--target", "gpu"), "there is no target 'gpu'"),
        (("--verify", "maybe"), "there is no verify 'maybe'"),
        (("--opset", "7"), "opset 7 is too low"),
        (("--quality",), "No such option"),
        (("--opset", "new"), "'new' is not a valid integer"),
        (("--require", "remove-pading"), "there is no pass 'remove-pading'"),
        (("--config", "missing.json"), "missing.json: cannot read the config file"),
        (("--inputs", "missing.npz"), "missing.npz: not a readable .npz file"),
    ],
)
def test_wrong_usage_ends_in_2(
    model: pathlib.Path, tmp_path: pathlib.Path, arguments: tuple[str, ...], message: str
) -> None:
    result = _run("optimize", model, "-o", tmp_path / "out.onnx", *arguments)
    _assert_refused(result, 2, message, tmp_path)


def test_a_required_pass_that_the_pass_list_leaves_out_ends_in_2(
    model: pathlib.Path, tmp_path: pathlib.Path, test_passes: None
) -> None:
    result = _run("optimize", model, "-o", tmp_path / "out.onnx", "--require", "swap-operands")
    _assert_refused(result, 2, "the pass list leaves this pass out", tmp_path)


def test_missing_or_repeated_models_end_in_2(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.onnx"
    _assert_refused(_run("optimize", model), 2, "The output model is missing", tmp_path)
    _assert_refused(_run("optimize", "-o", out), 2, "The input model is missing", tmp_path)
    twice = _run("optimize", model, out, "-o", out)
    _assert_refused(twice, 2, "The output model is given twice", tmp_path)


def test_inputs_of_the_wrong_name_or_dtype_end_in_2(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "x.npz"
    command = ("optimize", model, "-o", tmp_path / "out.onnx", "--inputs", path)
    np.savez(path, ids=np.array([[1, 2]]))
    _assert_refused(_run(*command), 2, "unknown input 'ids'", tmp_path)
    np.savez(path, input_ids=np.array([[1.5]]), attention_mask=np.array([[1]]))
    _assert_refused(_run(*command), 2, "got dtype double", tmp_path)


def test_an_output_folder_that_does_not_exist_ends_in_2(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    result = _run("optimize", model, "-o", tmp_path / "missing" / "out.onnx")
    _assert_refused(result, 2, "does not exist", tmp_path)


def test_the_input_is_never_overwritten(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = model.read_bytes()
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    for out in (model, link):
        result = _run("optimize", model, "-o", out)
        _assert_refused(result, 2, "is the input model, which is never overwritten", tmp_path)
    assert model.read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "not ONNX", "truncated", "empty", "no weights"])
def test_a_damaged_model_ends_in_3(
    model: pathlib.Path, tmp_path: pathlib.Path, damage: str
) -> None:
    if damage == "missing":
        model.unlink()
    elif damage == "not ONNX":
        model.write_text("this is a text, and no model at all")
    elif damage == "truncated":
        model.write_bytes(model.read_bytes()[:-100])
    elif damage == "empty":
        model.write_bytes(b"")
    else:
        ir.save(masked_encoder().model, model, external_data="weights", size_threshold_bytes=0)
        (tmp_path / "weights").unlink()
    for command in (("optimize", model, "-o", tmp_path / "out.onnx"), ("inspect", model)):
        _assert_refused(_run(*command), 3, str(tmp_path), tmp_path)


def test_an_unexpected_error_is_one_line_that_tells_how_to_see_more(
    model: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("dechaff.target_lowering.lower", fail)
    command = ("optimize", model, "-o", tmp_path / "out.onnx")
    _assert_refused(_run(*command), 1, "unexpected ZeroDivisionError: a defect", tmp_path)
    assert "Traceback" in _run(*command, "--debug").stderr


def test_debug_shows_the_traceback_of_an_error_and_keeps_its_code(tmp_path: pathlib.Path) -> None:
    result = _run("inspect", tmp_path / "missing.onnx", "--debug")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


def test_passes_lists_every_pass_with_its_numerics() -> None:
    listed = {
        entry["name"]: entry for entry in json.loads(_run("passes", "--json").stdout)["passes"]
    }
    assert list(listed) == [step.name for step in PASSES]
    text = _run("passes").stdout
    for step in PASSES:
        assert step.name in text
        assert listed[step.name]["numerics"] == step.numerics.value
        assert listed[step.name]["documentation"]


def test_inspect_shows_the_signature_the_operators_and_the_cost(model: pathlib.Path) -> None:
    found = json.loads(_run("inspect", model, "--json").stdout)
    assert found["inputs"] == {"input_ids": "int64[B,S]", "attention_mask": "int64[B,S]"}
    assert found["outputs"] == {"hidden": "float[B,S,4]"}
    assert found["parameters"] == 58
    assert found["ops"]["MatMul"] == 1
    # per token 2 * 4 * 4 for MatMul, 4 each for Add, Mul and ReduceSum
    assert found["flops_formula"] == "44*B*S"
    assert found["attention"] == []
    lower_case = MASKED_ENCODER.replace("[B,S", "[batch,sequence")
    ir.save(parse(lower_case).model, model)
    text = _run("inspect", model).stdout
    for part in ("int64[batch,sequence]", "MatMul", "58 parameters", "attention blocks: 0"):
        assert part in text


@pytest.mark.parametrize("command", ["optimize", "passes", "inspect"])
def test_the_help_of_each_command_holds_an_example(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: dechaff {command}" in " ".join(result.stdout.split())


def test_the_help_lists_the_exit_codes() -> None:
    text = " ".join(_run("--help").stdout.split())
    for code in (error.exit_code for error in DechaffError.__subclasses__()):
        assert f"{int(code)} " in text.partition("Exit codes:")[2]


def _python(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_module_runs_as_a_program(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert (
        _python("-m", "dechaff", "--version").stdout == f"dechaff, version {dechaff.__version__}\n"
    )
    done = _python("-m", "dechaff", "optimize", model, tmp_path / "out.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    done = _python("-m", "dechaff", "inspect", tmp_path / "missing.onnx")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


def test_a_progress_bar_appears_on_a_terminal_and_only_there(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "-m", "dechaff", "optimize", str(model), str(tmp_path / "out.onnx")]
    ours, theirs = os.openpty()
    environment = os.environ | {"TERM": "xterm"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, env=environment, check=False, timeout=60
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as terminal:
        while part := terminal.read(4096):
            shown += part
    assert done.returncode == 0
    assert b"dechaff" in shown
    assert b"\x1b" in shown
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("moment", ["dechaff.target_lowering.lower", "onnx_ir.save"])
def test_an_interrupt_ends_in_130_and_leaves_no_partial_file(
    model: pathlib.Path, tmp_path: pathlib.Path, moment: str
) -> None:
    module, _, name = moment.rpartition(".")
    code = (
        "import os, pathlib, signal, sys, time, unittest.mock\n"
        f"import {module} as place\n"
        "from dechaff.command_line import main\n"
        "def interrupted(*args, **kwargs):\n"
        "    [a.write_text('a part') for a in args if isinstance(a, pathlib.Path)]\n"
        f"    os.kill(os.getpid(), {int(signal.SIGINT)})\n"
        "    time.sleep(10)\n"
        f"sys.argv = ['dechaff', 'optimize', {str(model)!r}, {str(tmp_path / 'out.onnx')!r}]\n"
        f"with unittest.mock.patch.object(place, {name!r}, interrupted):\n"
        "    main()\n"
    )
    done = _python("-c", code)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "dechaff: interrupted\n"
    assert [item.name for item in tmp_path.iterdir()] == ["in.onnx"]


def test_threads_reach_the_report(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = tmp_path / "report.json"
    result = _run("optimize", model, tmp_path / "out.onnx", "--threads", 1, "--report", report)
    assert result.exit_code == 0, result.output
    assert json.loads(report.read_text())["session"]["threads"] == 1
    assert "session: 1 thread (as asked)" in result.stdout


def test_no_threads_at_all_are_refused(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result = _run("optimize", model, tmp_path / "out.onnx", "--threads", 0)
    _assert_refused(result, 2, "at least 1 thread, got 0", tmp_path)
