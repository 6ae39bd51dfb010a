from __future__ import annotations

import copy
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import dechaff
from dechaff.command_line import cli
from dechaff.ir import Module, parse
from dechaff.ir.cache_folder import FOLDER_VARIABLE

from .examples import ZeroPadding, linear, masked_encoder


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def optimized(module: Module, inputs: Any = None, **options: Any) -> dechaff.Verification:
    passes = [ZeroPadding()] if module.source == "encoder.onnx" else "none"
    found = dechaff.optimize(module.model, inputs, passes=passes, progress=False, **options)
    assert found.report is not None
    return found.report.verification


def with_weights(seed: int) -> Module:
    module = parse(
        '<ir_version: 10, opset_import: ["" : 23]> '
        "g (float[B,64] x, float[64,64] w) => (float[B,64] y) { y = MatMul (x, w) }"
    )
    weight = module.graph.inputs.pop()
    numbers = np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)
    weight.const_value = ir.tensor(numbers, name="w")
    module.graph.register_initializer(weight)
    return module


def test_the_same_models_and_inputs_are_compared_once() -> None:
    first, second = optimized(masked_encoder()), optimized(masked_encoder())
    assert [first.earlier, second.earlier] == [False, True]
    assert second.verified
    assert (first.outputs, first.cases) == (second.outputs, second.cases)


def test_any_difference_is_compared_anew() -> None:
    inputs = {"x": np.ones((2, 64), np.float32)}
    assert not optimized(with_weights(0), inputs).earlier
    assert optimized(with_weights(0), inputs).earlier
    assert not optimized(with_weights(1), inputs).earlier
    other = {"x": np.full((2, 64), 2, np.float32)}
    assert not optimized(with_weights(0), other).earlier
    threads = dechaff.SessionSettings(threads=1)
    assert not optimized(with_weights(0), inputs, session=threads).earlier


def test_without_the_cache_every_comparison_is_made(folder: pathlib.Path) -> None:
    assert not optimized(masked_encoder(), cache=False).earlier
    assert not folder.exists()
    optimized(masked_encoder())
    assert not optimized(masked_encoder(), cache=False).earlier


def test_a_disagreement_is_not_kept(folder: pathlib.Path) -> None:
    changed = linear()
    changed.graph.initializers["weight"].const_value = ir.tensor(np.ones((4, 4), np.float32))
    for _ in range(2):
        result = dechaff.verify(linear().model, changed.model, cache=True)
        assert not result.agree
        assert not result.earlier
    assert not folder.exists()


def test_verify_keeps_all_its_figures() -> None:
    first, second = (dechaff.verify(linear().model, linear().model, cache=True) for _ in range(2))
    assert second.earlier
    assert first.outputs == second.outputs
    assert not dechaff.verify(linear().model, linear().model).earlier


def test_the_command_says_so_and_can_be_told_not_to(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "m.onnx")
    ir.save(linear().model, path)
    shown = [CliRunner().invoke(cli, ["verify", path, path]).output for _ in range(2)]
    assert ["earlier run" in text for text in shown] == [False, True]
    assert "earlier run" not in CliRunner().invoke(cli, ["verify", path, path, "--no-cache"]).output


def test_weights_are_told_apart_by_content_not_by_name() -> None:
    module = with_weights(0)
    tensor = module.graph.initializers["w"].const_value
    assert tensor is not None
    numbers = copy.deepcopy(tensor.numpy())
    dechaff.verify(module.model, module.model, cache=True)
    numbers[5, 5] += 1
    module.graph.initializers["w"].const_value = ir.tensor(numbers, name="w")
    assert not dechaff.verify(module.model, module.model, cache=True).earlier
