"""``python -m benchmarks.picture_exits``: early exits of a vision-language model, by modality.

The model is a folder that ``examples/train_picture_questions.py`` wrote::

    python -m benchmarks.picture_exits build/picture-questions -o build/picture-exits

The encoder of the picture, that of the question and the decoder are left each by itself, with
thresholds of their own (MuE, CVPR 2023, section 3.2). They are chosen in this order on made
questions with their answers, each stack with the exits before it in force, and each may lose its
share of the accuracy that may be lost; accuracy and time are those of other questions. Time is that
of whole runs through ONNX Runtime, in turns with the same model without exits. What is calibrated
already is not calibrated again, and ``--only-calibrate`` stops there, with the accuracy measured:
only what follows needs a quiet machine.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

import dechaff
from benchmarks.arguments import positive
from benchmarks.exit_points import (
    Point,
    read_points,
    share_of_right_answers,
    time_points,
    without_verification,
    write_points,
    write_results,
)
from benchmarks.exports import quiet
from dechaff.backends.onnxruntime.threads import usable_cores
from examples.picture_questions import Questions, make_questions

STACKS = ("picture_encoder", "question_encoder", "decoder")
_TIMED_ROWS = {1: 96, 16: 480}
_KEEPS = (0.99, 0.98, 0.95)
_VARIANTS: dict[str, tuple[str | None, str | None, str | None]] = {
    "similarity in all (MuE)": ("similarity", "similarity", "similarity"),
    "similarity, in the decoder entropy": ("similarity", "similarity", "entropy"),
    "similarity, in the decoder patience": ("similarity", "similarity", "patience"),
    "in the decoder alone, entropy (DeeBERT)": (None, None, "entropy"),
    "in the decoder alone, patience (PABEE)": (None, None, "patience"),
}
"""Exit tests of the stacks; None for a stack without exits."""
_SEEDS = {"dev": 2_000_000, "test": 3_000_000}


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate what is not, measure, and write the table, the figures and the plot; 0."""
    options = _parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    questions = {name: make_questions(options.pictures, seed) for name, seed in _SEEDS.items()}
    model = options.output / "model.onnx"
    if not model.exists():
        export(options.model, model)
    base, *points = _calibrated(options, model, questions)
    if options.only_calibrate:
        return 0
    batches = {
        size: list(questions["test"].batches(size, rows)) for size, rows in _TIMED_ROWS.items()
    }
    time_points([base, *points], model, batches, options.rounds)
    write_results(options.output, "picture_exits", markdown(options, base, points), base, points)
    return 0


def export(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Write the trained model as an ONNX file; batch and length of the question may vary."""
    import torch

    from examples.train_picture_questions import load_model

    example = make_questions(2, 0).inputs(np.arange(2))
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=12)
    words = {0: batch, 1: sequence}
    with quiet():
        torch.onnx.export(
            load_model(folder),
            (),
            str(path),
            kwargs={name: torch.from_numpy(array) for name, array in example.items()},
            input_names=list(example),
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: batch}, "question": words, "question_mask": words},
            opset_version=23,
            dynamo=True,
            verbose=False,
        )


class StackCalibration:
    """Chooses thresholds stack by stack, what was found before in force."""

    def __init__(self, model: pathlib.Path, questions: Questions, passes: str) -> None:
        self._model = model
        self._questions = questions
        self._passes = passes
        self._curves: dict[tuple[str, str, str], dechaff.ExitCalibration] = {}

    def find(self, criteria: Sequence[str | None], keep: float) -> tuple[str, list[float]]:
        """The pass list with an ``early-exit`` for each stack, and mean layers run by stack.

        Args:
            criteria: the exit test of each of ``STACKS``; None for no exits.
            keep: the share of right answers to be kept by all exits together.
        """
        passes = self._passes
        layers: list[float] = []
        share = keep ** (1 / sum(criterion is not None for criterion in criteria))
        for stack, criterion in zip(STACKS, criteria, strict=True):
            if criterion is None:
                layers.append(float("nan"))
                continue
            curve = self._curve(passes, stack, criterion)
            setting = curve.at(share)
            layers.append(setting.layers)
            if setting.thresholds:
                passes = f"{passes},{curve.passes_for(setting)}"
        return passes, layers

    def _curve(self, passes: str, stack: str, criterion: str) -> dechaff.ExitCalibration:
        """What exits of one stack may do behind others; found once."""
        key = passes, stack, criterion
        if key not in self._curves:
            self._curves[key] = dechaff.calibrate_exits(
                self._model,
                self._questions.batches(32),
                labels=self._questions.answers,
                criterion=criterion,
                stack=stack,
                passes=passes,
            )
            print(self._curves[key], flush=True)
        return self._curves[key]


def _calibrated(
    options: argparse.Namespace, model: pathlib.Path, questions: dict[str, Questions]
) -> list[Point]:
    """The model without exits, then for every variant a point for each accuracy to be kept."""
    path = options.output / "calibration.json"
    if path.exists():
        return read_points(path)
    points = [Point("none", "", 1.0, options.passes)]
    calibration = StackCalibration(model, questions["dev"], options.passes)
    for name, criteria in _VARIANTS.items():
        points += [Point(name, "", keep, *calibration.find(criteria, keep)) for keep in _KEEPS]
    batches, labels = list(questions["test"].batches(16)), questions["test"].answers
    for point in points:
        optimized = without_verification(model, point.passes)
        point.accuracy = share_of_right_answers(optimized, batches, labels)
        print(f"{point.heads}, {point.keep:.1%}: {point.accuracy:.4f}", flush=True)
    write_points(path, points)
    return points


def markdown(options: argparse.Namespace, base: Point, points: Sequence[Point]) -> str:
    """The table."""
    lines = [
        f"*model {options.model.name}, {usable_cores()} threads, rounds {options.rounds}; without "
        f"exits: accuracy {base.accuracy:.4f}, {base.milliseconds['1']:.2f} ms at batch 1, "
        f"{base.milliseconds['16']:.2f} ms at batch 16*",
        "",
        "| exit test | to keep on dev | accuracy | of the model's | layers run: picture | question "
        "| decoder | time saved, batch 1 | batch 16 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for p in points:
        layers = " | ".join("all" if np.isnan(mean) else f"{mean:.2f}" for mean in p.layers)
        lines.append(
            f"| {p.heads} | {p.keep:.1%} | {p.accuracy:.4f} | {p.accuracy / base.accuracy:.1%} | "
            f"{layers} | {p.saved['1']:.0%} | {p.saved['16']:.0%} |"
        )
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path, help="folder of the trained model")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--pictures", type=int, default=250, help="eight questions about each")
    parser.add_argument(
        "--passes",
        default="default,-remove-padding",  # nearly all tokens are patches: packing them costs more
        help="the model without exits",
    )
    parser.add_argument("--only-calibrate", action="store_true", help="measure in a later run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
