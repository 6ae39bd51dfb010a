"""Accuracy of a fine-tuned classifier of sentences under each of some pass lists.

Hundreds of sentences tell tenths of a point from noise only where the same sentences are compared
one by one: the drop is that of answers in pairs, with its standard error.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import dechaff
from dechaff.search.confidence import Drop, Figures, drop_between
from examples.finetune_sst2 import HELD_OUT_FILE
from examples.sst2_sentences import read_sentences

from .exports import quiet
from .inputs import Array, Inputs
from .quantized_sizes import size_on_disk

_BATCH = 32
_DEV = "dev.tsv"


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Labelled sentences of near length together, as batches.

    Attributes:
        batches: inputs by name, int64[B, S].
        labels: int64[rows], in the order of the batches.
        is_dev: bool[rows], those of the dev file.
    """

    batches: list[Inputs]
    labels: Array
    is_dev: Array


@dataclasses.dataclass(frozen=True)
class SizeSearch:
    """A search for the smallest model whose accuracy falls by little.

    It sees the sentences that the training held out, which the table then leaves out.

    Attributes:
        passes: what is searched.
        max_drop: how far the accuracy may fall.
        budget: time for the search.
    """

    passes: str
    max_drop: float
    budget: str


@dataclasses.dataclass(frozen=True)
class Row:
    """What a pass list did to the model.

    Attributes:
        passes: the list.
        dev: accuracy on the dev sentences.
        all: accuracy on all sentences.
        drop: how far the accuracy on all fell from the first list's.
        error: of the logits, relative to the first list's.
        size: bytes of the saved model.
        smaller: the first list's size by this one's.
    """

    passes: str
    dev: float
    all: float
    drop: Drop
    error: float
    size: int
    smaller: float

    def __str__(self) -> str:
        """A line of the table."""
        drop = f"{100 * self.drop.mean:.2f} +- {100 * self.drop.error:.2f}"
        return (
            f"| `{self.passes}` | {self.dev:.2%} | {self.all:.2%} | {drop} | {self.error:.4f} "
            f"| {self.size / 1e6:.2f} | {self.smaller:.3f} |"
        )


def measure_accuracy(
    checkpoint: pathlib.Path,
    data: pathlib.Path,
    pass_lists: Sequence[str],
    target: str = "cpu",
    calibration: int = 256,
    search: SizeSearch | None = None,
) -> Iterator[str | Row]:
    """Lines of a table, with a row for each pass list: accuracy, its drop, error, size.

    Calibration sentences come from ``train.tsv``; the labels of none of them are looked at.

    Args:
        checkpoint: folder of a Hugging Face classifier with its tokenizer; sentences that its
            training left out lie beside it, or do not.
        data: folder of ``train.tsv``, ``dev.tsv`` and ``test.tsv``.
        pass_lists: the first is what the others are compared with.
        target: what the models are lowered for.
        calibration: sentences for passes that measure activations.
        search: a search whose pass list makes the last row.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    files = [data / _DEV, data / "test.tsv"] + [checkpoint / HELD_OUT_FILE] * (search is None)
    sentences = _read(tokenizer, [file for file in files if file.name == _DEV or file.exists()])
    typical = [sentence for sentence, _ in read_sentences(data / "train.tsv")]
    batches = list(_batches(tokenizer, typical[:calibration], _BATCH // 2))
    example = {name: torch.from_numpy(array) for name, array in sentences.batches[0].items()}
    yield f"{len(sentences.labels):,} sentences, {int(sentences.is_dev.sum())} of them dev"
    yield "| passes | dev | all | drop on all, points | error of logits | MB on disk | smaller |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    first: tuple[Array, int] | None = None
    if search is not None:
        held_out = _labelled(tokenizer, read_sentences(checkpoint / HELD_OUT_FILE))
        found = _searched(search, (model, example), held_out, batches, target)
        yield f"searched: {found}"
        pass_lists = [*pass_lists, found]
    for passes in pass_lists:
        optimized = dechaff.optimize(
            model,
            example,
            passes=passes,
            target=target,
            verify="off",
            progress=False,
            calibration=batches,
        )
        logits = np.concatenate([next(iter(optimized.run(b).values())) for b in sentences.batches])
        size = size_on_disk(optimized)
        first = (logits, size) if first is None else first
        yield compare(passes, sentences, first, (logits, size))
        assert optimized.report is not None  # optimize() always gives one
        yield from (f"  {note}" for note in optimized.report.notes if "GPTQ" in note)


def _searched(
    search: SizeSearch,
    model: tuple[Any, Any],
    data: Sequence[Inputs],
    calibration: Sequence[Inputs],
    target: str,
) -> str:
    """The pass list that a search finds."""
    optimized = dechaff.optimize(
        *model,
        passes=search.passes,
        target=target,
        verify="off",
        metric="accuracy",
        data=data,
        max_drop=search.max_drop,
        budget=search.budget,
        mode="size",
        calibration=calibration,
    )
    assert optimized.report is not None  # optimize() always gives one
    assert optimized.report.search is not None  # a metric was given
    for point in optimized.report.search.points:
        print(f"{point.name}: {point.held_out_drop} held out", file=sys.stderr)
    return optimized.report.search.pass_list


def _labelled(tokenizer: Any, rows: Sequence[tuple[str, int]]) -> list[Inputs]:
    """Batches with their labels, of near length together."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    batches = _batches(tokenizer, [sentence for sentence, _ in rows], _BATCH)
    starts = range(0, len(rows), _BATCH)
    return [
        {**batch, "labels": np.array([label for _, label in rows[start : start + _BATCH]])}
        for start, batch in zip(starts, batches, strict=True)
    ]


def compare(
    passes: str, sentences: Sentences, first: tuple[Array, int], found: tuple[Array, int]
) -> Row:
    """A row of the table.

    Args:
        passes: the list that made ``found``.
        sentences: with their labels.
        first: logits, float32[rows, classes], and size of the model to compare with.
        found: those of this one.
    """
    (expected, first_size), (logits, size) = first, found
    before, after = (
        (answers.argmax(axis=1) == sentences.labels).astype(np.float64)
        for answers in (expected, logits)
    )
    return Row(
        passes,
        float(after[sentences.is_dev].mean()),
        float(after.mean()),
        drop_between(Figures.of_rows(before), Figures.of_rows(after)),
        float(np.linalg.norm(logits - expected) / np.linalg.norm(expected)),
        size,
        first_size / size,
    )


def _read(tokenizer: Any, files: Sequence[pathlib.Path]) -> Sentences:
    rows = [(*row, file.name == _DEV) for file in files for row in read_sentences(file)]
    rows.sort(key=lambda row: len(row[0]))
    batches = list(_batches(tokenizer, [sentence for sentence, _, _ in rows], _BATCH))
    labels, is_dev = (np.array([row[place] for row in rows]) for place in (1, 2))
    return Sentences(batches, labels, is_dev)


def _batches(tokenizer: Any, sentences: Sequence[str], size: int) -> Iterator[Inputs]:
    for start in range(0, len(sentences), size):
        encoded = tokenizer(
            list(sentences[start : start + size]), padding=True, return_tensors="np"
        )
        yield {
            name: np.asarray(encoded[name], np.int64) for name in ("input_ids", "attention_mask")
        }
