"""``python -m benchmarks.early_exit``: accuracy and time along the curve of early exits.

The model is a folder that ``examples/finetune_sst2.py`` wrote; the data are files of sentences::

    python -m benchmarks.early_exit build/minilm-layerwise path/to/sst2 -o build/early-exit

Light heads are those trained with the model, where its folder has them, and heads that dechaff fits
to the model's own answers on the training sentences, without their labels. Thresholds are chosen on
the sentences of ``dev.tsv``, with their labels; accuracy and time are those of ``test.tsv``. Time
is that of whole runs through ONNX Runtime, in turns with the same model without exits. What is
calibrated already is not calibrated again, and ``--only-calibrate`` stops there, with the accuracy
measured: only what follows needs a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

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
from benchmarks.inputs import Array
from dechaff.backends.onnxruntime.threads import usable_cores

_TIMED_ROWS = {1: 96, 16: 320}
_KEEPS = (1.0, 0.99, 0.98, 0.95)
_VARIANTS = (
    ("trained heads", "entropy"),
    ("fitted heads", "entropy"),
    ("fitted heads", "patience"),
    ("own head", "entropy"),
    ("own head", "similarity"),
)
_HEADS_FILES = ("exit_heads.npz", "exit_heads.safetensors")


@dataclasses.dataclass(frozen=True)
class Sentences:
    """A file of sentences: token ids of each, and labels."""

    ids: list[list[int]]
    labels: Array

    def batches(self, size: int, limit: int | None = None) -> Iterator[dict[str, Array]]:
        """Inputs in the order of the file, padded to the longest sentence of each batch."""
        for start in range(0, len(self.ids) if limit is None else limit, size):
            rows = self.ids[start : start + size]
            longest = max(map(len, rows))
            ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
            lengths = np.array([len(row) for row in rows])
            mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
            yield {"input_ids": ids, "attention_mask": mask}


def read_sentences(path: pathlib.Path, tokenizer: Any) -> Sentences:
    """Sentences and labels of a file of tab-separated values."""
    if not path.is_file():
        sys.exit(f"{path} does not exist: the data folder holds train.tsv, dev.tsv and test.tsv")
    lines = [line for line in path.read_text("utf-8").splitlines() if line]
    rows = [line.rsplit("\t", 1) for line in lines]
    ids = [encoded.ids for encoded in tokenizer.encode_batch([sentence for sentence, _ in rows])]
    return Sentences(ids, np.array([int(label) for _, label in rows]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate what is not, measure, and write the table, the figures and the plot; 0."""
    options = _parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    sentences = _read_all(options)
    model = _onnx_file(options)
    base, *points = _calibrated(options, model, sentences)
    if options.only_calibrate:
        return 0
    batches = {
        size: list(sentences["test"].batches(size, rows)) for size, rows in _TIMED_ROWS.items()
    }
    time_points([base, *points], model, batches, options.rounds)
    write_results(options.output, "early_exit", markdown(options, base, points), base, points)
    return 0


def _read_all(options: argparse.Namespace) -> dict[str, Sentences]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(options.longest)
    names = ("train", "dev", "test")
    return {name: read_sentences(options.data / f"{name}.tsv", tokenizer) for name in names}


def _onnx_file(options: argparse.Namespace) -> pathlib.Path:
    """The model as a file, exported once."""
    path: pathlib.Path = options.output / "model.onnx"
    if not path.exists():
        from transformers import AutoModelForSequenceClassification

        from benchmarks.exports import export

        module: Any = AutoModelForSequenceClassification.from_pretrained(options.model)
        module.config.return_dict = False
        export(module.eval(), path, 23)
    return path


def _calibrated(
    options: argparse.Namespace, model: pathlib.Path, sentences: dict[str, Sentences]
) -> list[Point]:
    """The model without exits, then for every variant a point for each accuracy to be kept."""
    path = options.output / "calibration.json"
    if path.exists():
        return read_points(path)
    dev, test = sentences["dev"], sentences["test"]
    points = [Point("none", "none", 1.0, "default")]
    for heads, criterion in _VARIANTS:
        place = _heads(options, model, heads, sentences["train"])
        if place is None:
            continue
        found = dechaff.calibrate_exits(
            model, dev.batches(32), labels=dev.labels, criterion=criterion, heads=place
        )
        print(f"{heads}\n{found}", flush=True)
        settings = {keep: found.at(keep) for keep in _KEEPS}
        for keep, setting in settings.items():
            passes = f"default,{found.passes_for(setting)}"
            points.append(Point(heads, criterion, keep, passes, [setting.layers]))
    for point in points:
        optimized = without_verification(model, point.passes)
        point.accuracy = share_of_right_answers(optimized, list(test.batches(16)), test.labels)
        print(
            f"{point.heads}, {point.criterion}, {point.keep:.0%}: {point.accuracy:.4f}", flush=True
        )
    write_points(path, points)
    return points


def _heads(
    options: argparse.Namespace, model: pathlib.Path, kind: str, train: Sentences
) -> str | None:
    """The value of the pass's option; None where the model has no heads of that kind."""
    if kind == "own head":
        return "own"
    if kind == "trained heads":
        trained = [options.model / name for name in _HEADS_FILES]
        return next((str(path) for path in trained if path.exists()), None)
    path = options.output / "fitted_heads.npz"
    if not path.exists():
        print(dechaff.fit_exit_heads(model, train.batches(32), path))
    return str(path)


def markdown(options: argparse.Namespace, base: Point, points: Sequence[Point]) -> str:
    """The table."""
    lines = [
        f"*model {options.model.name}, {usable_cores()} threads, rounds {options.rounds}; without "
        f"exits: accuracy {base.accuracy:.4f}, {base.milliseconds['1']:.2f} ms at batch 1, "
        f"{base.milliseconds['16']:.2f} ms at batch 16*",
        "",
        "| heads | exit test | to keep on dev | accuracy | of the model's | layers run | "
        "time saved, batch 1 | batch 16 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {p.heads} | {p.criterion} | {p.keep:.0%} | {p.accuracy:.4f} | "
        f"{p.accuracy / base.accuracy:.1%} | {p.layers[0]:.2f} | {p.saved['1']:.0%} | "
        f"{p.saved['16']:.0%} |"
        for p in points
    ]
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path, help="folder of the fine-tuned model")
    parser.add_argument("data", type=pathlib.Path, help="folder of train.tsv, dev.tsv, test.tsv")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--longest", type=int, default=64, help="tokens that a sentence keeps")
    parser.add_argument("--only-calibrate", action="store_true", help="measure in a later run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
