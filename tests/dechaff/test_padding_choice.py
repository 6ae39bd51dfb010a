from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dechaff
import dechaff.runtime_choice
from dechaff.ir import parse
from tests.dechaff.examples import ATTENTION_MODEL, linear

Seconds = dict[str, float]


def measured(monkeypatch: pytest.MonkeyPatch, seconds: Seconds) -> list[set[str]]:
    """Let both forms take these times; tells which were asked for."""
    asked: list[set[str]] = []

    def shortest_runs(sessions: Any, batches: Any) -> Seconds:
        asked.append(set(sessions))
        for session in sessions.values():
            session.run(*batches)
        return seconds

    monkeypatch.setattr(dechaff.runtime_choice, "shortest_runs", shortest_runs)
    monkeypatch.setattr("dechaff.runtime_choice.has_openvino", lambda: False)
    return asked


def example(lengths: tuple[int, int] = (5, 5)) -> dict[str, Any]:
    mask = (np.arange(5) < np.array(lengths)[:, None]).astype(np.int64)
    return {
        "x": np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32),
        "attention_mask": mask,
    }


def optimized(**options: Any) -> dechaff.OptimizedModel:
    given: dict[str, Any] = {"target": "auto", "example_inputs": example(), "cache": False}
    return dechaff.optimize(parse(ATTENTION_MODEL).model, progress=False, **(given | options))


def removes(model: dechaff.OptimizedModel) -> bool:
    assert model.report is not None
    return any(r.name == "remove-padding" and r.changed for r in model.report.records)


def notes(model: dechaff.OptimizedModel) -> str:
    assert model.report is not None
    return "\n".join(model.report.notes)


@pytest.mark.parametrize(("kept", "stays"), [(0.9, True), (0.96, False), (1.7, False)], ids=str)
def test_padding_is_kept_where_that_is_clearly_faster_on_the_example(
    monkeypatch: pytest.MonkeyPatch, kept: float, stays: bool
) -> None:
    asked = measured(monkeypatch, {"removed": 1.0, "kept": kept})
    model = optimized()
    # Twice where the first says so: what is usual is not left for a disturbed measurement.
    assert asked == [{"removed", "kept"}] * (2 if stays else 1)
    assert removes(model) == (not stays)
    assert f"padding is {'kept' if stays else 'removed'}: measured on x [2, 5, 8]" in notes(model)
    assert ("show one of them" in notes(model)) == stays
    ragged = example((2, 5))
    valid = ragged["attention_mask"] == 1
    packed = optimized(target="cpu")
    found, expected = (m.run(ragged)["y"][valid] for m in (model, packed))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"target": "cpu"}, id="another target"),
        pytest.param({"example_inputs": None}, id="no example"),
        pytest.param({"example_inputs": example((5, 2))}, id="an example with padding"),
        pytest.param({"passes": "default,-remove-padding"}, id="padding kept by the user"),
        pytest.param({"passes": "default,convert-precision"}, id="an approximate pass"),
    ],
)
def test_nothing_is_measured_where_there_is_nothing_to_choose(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    asked = measured(monkeypatch, {"removed": 1.0, "kept": 0.1})
    model = optimized(**options)
    assert asked == []
    assert removes(model) == ("-remove-padding" not in options.get("passes", ""))


def test_a_model_without_padding_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(monkeypatch, {"removed": 1.0, "kept": 0.1})
    batch = {"x": np.ones((3, 4), np.float32)}
    dechaff.optimize(linear().model, batch, target="auto", progress=False)
    assert asked == []
