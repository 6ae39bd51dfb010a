"""Targets as users write them, and what they get where something is missing."""

from __future__ import annotations

import importlib.util
import pathlib
import shutil

import numpy as np
import pytest

import dechaff
from dechaff.backends.tvm import resolve_target
from dechaff.ir import MissingPackageError, UsageError
from tests.dechaff.examples import LINEAR, linear

SM_80 = '{"kind": "cuda", "arch": "sm_80"}'


def test_cuda_without_a_gpu_means_sm_90() -> None:
    assert resolve_target("cuda").attrs["arch"].startswith("sm_")


def test_a_tag_whose_architecture_the_schedules_do_not_know_gets_the_one_they_do() -> None:
    # sm_90a would silently lose the tensor cores
    assert resolve_target("nvidia/nvidia-h100").attrs["arch"] == "sm_90"


def test_a_target_is_given_as_json() -> None:
    target = resolve_target(SM_80)
    assert target.attrs["arch"] == "sm_80"
    assert target.attrs["max_num_threads"] == 1024


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nvidia/no-such-card", "there is no target 'nvidia/no-such-card'"),
        ("{not json", "there is no target"),
        ('{"kind": "vulkan"}', "not for vulkan"),
        ('{"kind": "cuda", "arch": "9.0"}', "expected an architecture such as sm_90"),
    ],
)
def test_what_is_no_target_is_refused_with_those_that_are(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match="choose cpu, portable, cuda, llvm") as caught:
        resolve_target(text)
    assert problem in str(caught.value)


def test_without_tvm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dechaff\[tvm\]'"):
        dechaff.optimize(linear().model, target="llvm", progress=False)


def test_without_nvcc_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="needs the compiler nvcc, which is not on PATH"):
        dechaff.optimize(linear().model, target=SM_80, progress=False)


def test_a_library_is_called_like_the_model_and_loads_by_itself(tmp_path: pathlib.Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = dechaff.optimize(linear().model, progress=False).run({"x": x})["y"]
    optimized = dechaff.optimize(linear().model, target="llvm", progress=False)
    assert optimized.report is not None
    assert optimized.report.verification.verified
    assert "define" in optimized.source()
    path = tmp_path / "linear.so"
    optimized.save(path)
    loaded = dechaff.load(path)
    for model in (optimized, loaded):
        np.testing.assert_allclose(model(x)["y"], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(dechaff.InputRejectedError, match="expected"):
        loaded.run({"x": x[0]})
    with pytest.raises(UsageError, match="holds no graph to write as ONNX"):
        loaded.save(tmp_path / "linear.onnx")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["linear.so"]


def test_tensors_of_torch_go_in_and_out(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU()).eval()
    x = torch.randn(3, 8)
    optimized = dechaff.optimize(model, (x,), target="llvm", progress=False)
    with torch.no_grad():
        torch.testing.assert_close(optimized(x), model(x), rtol=1e-5, atol=1e-5)


def test_what_is_no_library_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "junk.so"
    path.write_bytes(b"junk")
    with pytest.raises(dechaff.ModelRejectedError, match="not a library that dechaff saved"):
        dechaff.load(path)
    with pytest.raises(dechaff.ModelRejectedError, match="there is no such file"):
        dechaff.load(tmp_path / "absent.so")


def test_a_model_that_onnx_runtime_runs_has_no_generated_code(tmp_path: pathlib.Path) -> None:
    optimized = dechaff.optimize(linear().model, progress=False)
    with pytest.raises(UsageError, match="target='llvm' or target='cuda'"):
        optimized.source()
    with pytest.raises(UsageError, match=r"or save it as NAME\.onnx"):
        optimized.save(tmp_path / "model.so")


def test_the_command_writes_a_library(tmp_path: pathlib.Path) -> None:
    import onnx_ir as ir
    from click.testing import CliRunner

    from dechaff.command_line import cli
    from dechaff.ir import parse

    source, library = tmp_path / "linear.onnx", tmp_path / "linear.so"
    ir.save(parse(LINEAR).model, source)
    command = ["optimize", str(source), "-o", str(library), "--target", "llvm"]
    done = CliRunner().invoke(cli, [*command, "--products", "library"])
    assert done.exit_code == 0, done.output
    assert library.exists()
    assert "1 matrix products call numpy's BLAS" in done.output
    done = CliRunner().invoke(cli, [*command[:3], str(tmp_path / "linear.onnx2"), *command[4:]])
    assert done.exit_code == 2
    assert "writes a library, NAME.so" in done.output
