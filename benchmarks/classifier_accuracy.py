"""Accuracy of a fine-tuned classifier of sentences under each of some pass lists."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import dechaff
from examples.sst2_sentences import read_sentences

from .exports import quiet
from .inputs import Array, Inputs

_BATCH = 32
_CALIBRATION_SENTENCES = 256


def measure_accuracy(
    checkpoint: pathlib.Path, data: pathlib.Path, pass_lists: Sequence[str], target: str = "cpu"
) -> Iterator[str]:
    """A line for each pass list: accuracy on ``dev.tsv``, closeness to the first one, and size.

    Calibration sentences come from ``train.tsv``; the labels of none of them are looked at.

    Args:
        checkpoint: folder of a Hugging Face classifier with its tokenizer.
        data: folder of the labelled sentences.
        pass_lists: the first is what the others are compared with.
        target: what the models are lowered for.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    rows = sorted(read_sentences(data / "dev.tsv"), key=lambda row: len(row[0]))
    labels = np.array([label for _, label in rows])
    batches = list(_batches(tokenizer, [sentence for sentence, _ in rows], _BATCH))
    typical = [sentence for sentence, _ in read_sentences(data / "train.tsv")]
    calibration = list(_batches(tokenizer, typical[:_CALIBRATION_SENTENCES], _BATCH // 2))
    example = {name: torch.from_numpy(array) for name, array in batches[0].items()}
    first: Array | None = None
    yield "| passes | accuracy | same answers | error of logits | MB on disk | times smaller |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    first_size = 0
    for passes in pass_lists:
        optimized = dechaff.optimize(
            model,
            example,
            passes=passes,
            target=target,
            verify="off",
            progress=False,
            calibration=calibration,
        )
        logits = np.concatenate([next(iter(optimized.run(b).values())) for b in batches])
        first = logits if first is None else first
        accuracy = float((logits.argmax(axis=1) == labels).mean())
        same = float((logits.argmax(axis=1) == first.argmax(axis=1)).mean())
        error = float(np.linalg.norm(logits - first) / np.linalg.norm(first))
        size = _size_on_disk(optimized)
        first_size = first_size or size
        yield (
            f"| `{passes}` | {accuracy:.2%} | {same:.2%} | {error:.4f} | {size / 1e6:.2f} "
            f"| {first_size / size:.3f} |"
        )
        assert optimized.report is not None  # optimize() always gives one
        yield from (f"  {note}" for note in optimized.report.notes if "GPTQ" in note)


def _size_on_disk(optimized: dechaff.OptimizedModel) -> int:
    with tempfile.TemporaryDirectory(prefix="dechaff-benchmark-") as folder:
        optimized.save(pathlib.Path(folder) / "model.onnx")
        return sum(file.stat().st_size for file in pathlib.Path(folder).iterdir())


def _batches(tokenizer: Any, sentences: Sequence[str], size: int) -> Iterator[Inputs]:
    for start in range(0, len(sentences), size):
        encoded = tokenizer(
            list(sentences[start : start + size]), padding=True, return_tensors="np"
        )
        yield {
            name: np.asarray(encoded[name], np.int64) for name in ("input_ids", "attention_mask")
        }
