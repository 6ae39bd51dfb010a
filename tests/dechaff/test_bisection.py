from __future__ import annotations

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

import dechaff
from dechaff.bisection import Bisection
from dechaff.command_line import cli
from dechaff.fault_search import find_fault
from dechaff.ir import Module
from dechaff.model_import import import_model
from dechaff.passes import Pass, pass_list, pipelines

from .planted_faults import (
    LAYERS,
    NUMERIC_FAULTS,
    Crashes,
    DroppedMask,
    Replant,
    RightMul,
    RightSub,
    SwappedOperands,
    WrongScale,
    WrongShape,
    deep_model,
)
from .rare_faults import RARE_FAULTS


def _bisect(*passes: Pass, folder: pathlib.Path | None = None) -> Bisection | None:
    return dechaff.bisect(deep_model().model, list(passes), output=folder)


def _most_checks(passes: int, rewrites: int) -> int:
    """The whole, the unchanged model, and the two halvings."""
    return 2 + math.ceil(math.log2(passes)) + math.ceil(math.log2(rewrites))


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("fault", NUMERIC_FAULTS, ids=lambda fault: fault.name)
def test_pass_and_rewrite_are_found_in_logarithmic_steps(
    fault: type[Replant], position: int
) -> None:
    passes: list[Pass] = [RightMul(), RightSub(), RightMul()]
    passes.insert(position, fault())
    found = _bisect(*passes)
    assert found is not None
    assert found.fault.culprit == fault.name
    assert found.fault.number == fault.wrong_at + 1
    assert found.fault.count is not None
    assert found.fault.checks <= _most_checks(len(passes), found.fault.count)
    assert found.fault.rewrite is not None
    assert found.fault.rewrite.rule == f"{fault.name}-rule"
    (origin,) = found.fault.rewrite.origins
    kinds = {node.name: node.op_type for node in import_model(deep_model().model).graph}
    assert kinds[origin] == fault.op_type


@pytest.mark.parametrize("fault", RARE_FAULTS, ids=lambda fault: fault.name)
def test_faults_that_are_small_or_show_on_few_inputs_are_found_too(
    fault: type[Replant], tmp_path: pathlib.Path
) -> None:
    found = _bisect(RightSub(), fault(), folder=tmp_path / "repro")
    assert found is not None
    assert (found.fault.culprit, found.fault.number) == (fault.name, fault.wrong_at + 1)
    assert found.reduced is not None
    assert found.reduced.problem is not None


@pytest.mark.parametrize("wrong_at", [0, 1, LAYERS - 1])
def test_the_first_and_the_last_rewrite_are_found_too(wrong_at: int) -> None:
    step = WrongScale()
    step.wrong_at = wrong_at
    found = _bisect(RightSub(), step)
    assert found is not None
    assert found.fault.number == wrong_at + 1


def test_no_fault_is_found_where_there_is_none() -> None:
    assert _bisect(RightMul(), RightSub()) is None
    assert _bisect() is None


@pytest.mark.parametrize("fault", NUMERIC_FAULTS, ids=lambda fault: fault.name)
def test_the_repro_is_small_and_shows_the_fault_by_itself(
    fault: type[Replant], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "repro"
    found = _bisect(RightSub(), fault(), folder=folder)
    assert found is not None
    before, after = (dechaff.load(folder / f"{name}.onnx") for name in ("before", "after"))
    assert len(before.module.graph) <= 2
    assert len(after.module.graph) <= 5
    with np.load(folder / "inputs.npz") as archive:
        inputs = dict(archive)
    result = dechaff.verify(folder / "before.onnx", folder / "after.onnx", inputs)
    assert not result.agree
    command = ["verify", folder / "before.onnx", folder / "after.onnx"]
    assert _run(*command, "--inputs", folder / "inputs.npz").exit_code == 4


def test_the_command_in_the_repro_runs_by_itself(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "repro"
    assert _bisect(SwappedOperands(), folder=folder) is not None
    lines = (folder / "README.md").read_text().splitlines()
    (words,) = [line.split() for line in lines if line.startswith("    dechaff verify")]
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert "after.onnx" in done.stderr


def test_more_than_thirty_kinds_of_faults_are_planted() -> None:
    faults: tuple[type[Replant], ...] = (*NUMERIC_FAULTS, *RARE_FAULTS, WrongShape, Crashes)
    assert len({fault.name for fault in faults}) >= 32


def test_the_repro_says_what_was_found_and_with_what(tmp_path: pathlib.Path) -> None:
    _bisect(SwappedOperands(), folder=tmp_path / "repro")
    files = sorted(item.name for item in (tmp_path / "repro").iterdir())
    assert files == ["README.md", "after.onnx", "before.onnx", "fault.json", "inputs.npz"]
    data = json.loads((tmp_path / "repro" / "fault.json").read_text())
    assert (data["culprit"], data["rewrite"], data["rewrites"]) == ("swapped-operands", 4, 6)
    assert data["shown_by_repro"] is True
    assert data["versions"]["dechaff"] == dechaff.__version__
    text = (tmp_path / "repro" / "README.md").read_text()
    assert "dechaff verify before.onnx after.onnx --inputs inputs.npz" in text
    assert "Sub (" in text
    assert [item.name for item in tmp_path.iterdir()] == ["repro"]


def test_a_model_that_the_runtime_refuses_is_a_fault_too() -> None:
    found = _bisect(RightMul(), WrongShape())
    assert found is not None
    assert (found.fault.culprit, found.fault.number) == ("wrong-shape", 4)


def test_a_pass_that_raises_is_found_with_the_rewrite_it_raises_in(tmp_path: pathlib.Path) -> None:
    found = _bisect(RightMul(), Crashes(), RightMul(), folder=tmp_path / "repro")
    assert found is not None
    assert (found.fault.culprit, found.fault.number) == ("crashes", 4)
    assert "KeyError" in found.fault.problem
    assert (tmp_path / "repro" / "before.onnx").exists()


def test_a_wrong_lowering_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lower_wrongly(module: Module, target: str) -> Module:
        lowered, _ = dechaff.passes.run_passes(module.clone(), [WrongScale()])
        return lowered

    monkeypatch.setattr("dechaff.bisection.lower", lower_wrongly)
    found = _bisect(RightSub())
    assert found is not None
    assert found.fault.culprit == "the lowering for target cpu"
    assert found.reduced is not None
    assert len(found.reduced.before.graph) <= 2


class _FindsFaultWithAll:
    def judge(self, after: Module) -> str | None:
        return "never right"

    judge_pair = judge


def test_a_check_that_never_passes_is_refused() -> None:
    with pytest.raises(dechaff.UsageError, match="fails on the unchanged model too: never right"):
        find_fault(deep_model(), [RightSub()], _FindsFaultWithAll())  # type: ignore[arg-type]


@pytest.fixture
def model(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A model file, with the planted faults as passes of the command line."""
    passes = (*NUMERIC_FAULTS, RightMul, RightSub)
    for place in (pass_list, pipelines):
        monkeypatch.setattr(place, "PASSES", passes)
        monkeypatch.setattr(place, "PIPELINES", {"none": (), "default": ()})
    path = tmp_path / "deep.onnx"
    ir.save(deep_model().model, path)
    return path


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_the_command_names_the_fault_and_ends_in_4(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    command = ("bisect", model, "--passes", "right-sub,dropped-mask", "-o", tmp_path / "repro")
    result = _run(*command)
    assert result.exit_code == 4
    assert f"dropped-mask, rewrite {DroppedMask.wrong_at + 1} of {2 * LAYERS}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "repro" / "after.onnx").exists()
    again = _run(*command)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr


def test_the_command_says_that_there_is_no_fault(model: pathlib.Path) -> None:
    result = _run("bisect", model, "--passes", "right-sub")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "no fault found" in result.stdout


def test_a_command_of_the_user_may_judge(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "check.py"
    script.write_text(
        "import sys, numpy, onnxruntime as ort\n"
        "with numpy.load(sys.argv[3]) as archive: feeds = dict(archive)\n"
        "def run(path):\n"
        "    session = ort.InferenceSession(path)\n"
        "    names = [i.name for i in session.get_inputs()]\n"
        "    return session.run(None, {n: feeds[n] for n in names})[0]\n"
        "sys.exit(not numpy.allclose(run(sys.argv[1]), run(sys.argv[2]), atol=1e-4))\n"
    )
    check = f"{sys.executable} {script} {{before}} {{after}} {{inputs}}"
    folder = tmp_path / "repro"
    result = _run(
        "bisect", model, "--passes", "right-sub,wrong-scale", "--check", check, "-o", folder
    )
    assert result.exit_code == 4, result.output
    assert "wrong-scale, rewrite 4 of 6" in result.stderr
    assert "the check ends in 1" in result.stderr
    assert len(dechaff.load(folder / "before.onnx").module.graph) <= 2


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("no-such-program {before} {after}", "cannot run no-such-program"),
        ("true {before}", "expected {after} in it"),
        ("true '{after}", "No closing quotation"),
        ("false {after}", "fails on the unchanged model too"),
    ],
)
def test_a_check_that_cannot_be_used_is_a_usage_error(
    model: pathlib.Path, check: str, message: str
) -> None:
    result = _run("bisect", model, "--passes", "right-sub,wrong-scale", "--check", check)
    assert result.exit_code == 2
    assert message in result.stderr
