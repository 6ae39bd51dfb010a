from __future__ import annotations

import pathlib
import time
from typing import Any

import numpy as np
import pytest

import dechaff
import dechaff.runtime_choice
from dechaff.backends import Session, runs_in_openvino, start_session
from dechaff.backends.openvino import SharedRows
from dechaff.ir import parse
from dechaff.runtime_choice import is_clearly_faster
from tests.dechaff.examples import ATTENTION_MODEL, masked_encoder


def optimized(target: str, path: pathlib.Path, **options: Any) -> dechaff.OptimizedModel:
    import onnx

    onnx.save(onnx.parser.parse_model(ATTENTION_MODEL), path / "model.onnx")
    return dechaff.optimize(
        str(path / "model.onnx"), target=target, progress=False, cache=False, **options
    )


def batch() -> dict[str, Any]:
    mask = (np.arange(7) < np.array([7, 3, 5])[:, None]).astype(np.int64)
    x = np.random.default_rng(0).standard_normal((3, 7, 8)).astype(np.float32)
    return {"x": x, "attention_mask": mask}


def test_a_model_for_openvino_is_verified_saved_and_loaded_there(tmp_path: pathlib.Path) -> None:
    model = optimized("openvino", tmp_path)
    assert model.report is not None
    assert model.report.target == "openvino"
    assert model.report.verification.verified
    assert any(r.name == "remove-padding" and r.changed for r in model.report.records)
    model.save(tmp_path / "faster.onnx")
    loaded = dechaff.load(tmp_path / "faster.onnx")
    assert isinstance(start_session(loaded.module), SharedRows)
    found, given = model.run(batch()), batch()
    np.testing.assert_array_equal(loaded.run(given)["y"], found["y"])
    other = Session(loaded.module).run(given)
    np.testing.assert_allclose(other["y"], found["y"], rtol=1e-5, atol=1e-6)
    assert not found["y"][given["attention_mask"] == 0].any()


@pytest.mark.parametrize(
    ("openvino", "chosen"), [(0.5, "openvino"), (0.96, "cpu"), (2.0, "cpu")], ids=str
)
def test_auto_takes_the_runtime_that_is_clearly_faster(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, openvino: float, chosen: str
) -> None:
    monkeypatch.setattr(
        dechaff.runtime_choice, "shortest_runs", lambda *_: {"cpu": 1.0, "openvino": openvino}
    )
    model = optimized("auto", tmp_path)
    assert model.report is not None
    assert model.report.target == chosen
    assert runs_in_openvino(model.module) == (chosen == "openvino")
    (reason,) = [note for note in model.report.notes if "measured on x" in note]
    assert f"OpenVINO takes {1e3 * openvino:.1f} ms" in reason
    assert "x [16, 128, 8]" in reason


def test_auto_leaves_onnx_runtime_only_where_a_second_measurement_says_so_too(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed = iter([{"cpu": 1.0, "openvino": 0.8}, {"cpu": 0.7, "openvino": 0.8}])
    monkeypatch.setattr(dechaff.runtime_choice, "shortest_runs", lambda *_: next(disturbed))
    model = optimized("auto", tmp_path)
    assert model.report is not None
    assert model.report.target == "cpu"
    (reason,) = [note for note in model.report.notes if "measured on x" in note]
    assert "ONNX Runtime takes 700.0 ms, OpenVINO takes 800.0 ms" in reason


def test_auto_measures_on_the_example_where_there_is_one(tmp_path: pathlib.Path) -> None:
    model = optimized("auto", tmp_path, example_inputs=batch())
    assert model.report is not None
    (reason,) = [note for note in model.report.notes if "measured on x [3, 7, 8]" in note]
    assert "attention_mask [3, 7] and 3 shorter batches, ONNX Runtime takes" in reason


class Runtime:
    """Takes longer for a shape that is not the one before."""

    def __init__(self, seconds: float, change: float) -> None:
        self._seconds, self._change = seconds, change
        self._shape: tuple[int, ...] = ()

    def run(self, inputs: Any) -> Any:
        shape = inputs["x"].shape
        time.sleep(self._seconds + self._change * (shape != self._shape))
        self._shape = shape


@pytest.mark.parametrize(("shapes", "faster"), [(1, True), (2, False)])
def test_a_runtime_that_is_slower_when_shapes_change_is_timed_so(shapes: int, faster: bool) -> None:
    sessions: Any = {"cpu": Runtime(0.02, 0.0), "openvino": Runtime(0.01, 0.02)}
    batches = [{"x": np.zeros((1, 5 - each))} for each in range(shapes)]
    found, seconds = is_clearly_faster("openvino", "cpu", sessions, batches)
    assert found == faster
    assert (seconds["openvino"] < seconds["cpu"]) == faster


EVEN = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[B,S,8] x) => (float[B,N,16] y) <int64[3] pairs = {0, -1, 16}> { y = Reshape (x, pairs) }
"""


def test_a_model_that_takes_even_lengths_only_is_timed_on_the_batch_alone() -> None:
    example = {"x": np.zeros((1, 6, 8), np.float32)}
    model = dechaff.optimize(
        parse(EVEN).model, example, target="auto", progress=False, cache=False, verify="off"
    )
    assert model.report is not None
    (reason,) = [note for note in model.report.notes if "measured on" in note]
    assert "measured on x [1, 6, 8], ONNX Runtime takes" in reason


def test_a_batch_that_takes_long_is_timed_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dechaff.runtime_choice, "_LONG_SECONDS", 0.0)
    model = optimized("auto", tmp_path, example_inputs=batch())
    assert model.report is not None
    assert any("attention_mask [3, 7], ONNX Runtime takes" in note for note in model.report.notes)


def test_auto_without_openvino_is_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dechaff.runtime_choice, "has_openvino", lambda: False)
    model = dechaff.optimize(masked_encoder().model, target="auto", progress=False)
    assert model.report is not None
    assert model.report.target == "cpu"
    assert any("OpenVINO is not installed" in note for note in model.report.notes)


def test_auto_stays_with_onnx_runtime_where_openvino_cannot_run(tmp_path: pathlib.Path) -> None:
    session = dechaff.SessionSettings(1, affinity=(0,))
    model = optimized("auto", tmp_path, session=session)
    assert model.report is not None
    assert model.report.target == "cpu"
    assert any("leave affinity out" in note for note in model.report.notes)
