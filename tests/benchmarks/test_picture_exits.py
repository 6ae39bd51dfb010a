from __future__ import annotations

import argparse
import dataclasses
import pathlib

import numpy as np
import pytest

from benchmarks import picture_exits
from benchmarks.early_exit_plot import plot
from benchmarks.exit_points import Point
from benchmarks.picture_exits import StackCalibration, markdown
from examples.picture_questions import make_questions


def test_table_and_plot_show_the_layers_of_each_modality(tmp_path: pathlib.Path) -> None:
    base = Point("none", "", 1.0, "default", [], 0.8, {"1": 4.0, "16": 40.0}, {"1": 0, "16": 0})
    point = Point("entropy", "", 0.99, "default", [float("nan"), 2.5, 1.0], 0.796)
    point.saved = {"1": 0.5, "16": 0.25}
    options = argparse.Namespace(model=pathlib.Path("pictures"), rounds=3)
    assert "| entropy | 99.0% | 0.7960 | 99.5% | all | 2.50 | 1.00 | 50% | 25% |" in markdown(
        options, base, [point]
    )
    record = {"base": dataclasses.asdict(base), "points": [dataclasses.asdict(point)]}
    plot(record, tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").stat().st_size > 1000


def test_stacks_are_calibrated_in_turn_with_the_exits_before_in_force(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from examples import train_picture_questions
    from examples.picture_question_model import PictureQuestionModel

    torch.manual_seed(0)
    small = PictureQuestionModel(24, num_heads=2, encoder_layers=2, decoder_layers=2).eval()
    monkeypatch.setattr(train_picture_questions, "load_model", lambda _: small)
    picture_exits.export(tmp_path, tmp_path / "model.onnx")
    made = make_questions(4, 0)
    with torch.inference_mode():
        logits = small(**{name: torch.from_numpy(x) for name, x in next(made.batches(32)).items()})
    questions = dataclasses.replace(made, answers=logits.argmax(dim=-1).numpy())
    found = StackCalibration(tmp_path / "model.onnx", questions, "default")
    passes, layers = found.find(("similarity", "similarity", "entropy"), keep=0.5)
    assert all(1 <= mean <= 2 for mean in layers)
    assert [f"stack={stack}" in passes for stack in picture_exits.STACKS] == [
        mean < 2 for mean in layers
    ]
    _, alone = found.find((None, None, "entropy"), keep=1.0)
    assert np.isnan(alone[:2]).all()
