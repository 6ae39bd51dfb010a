"""The model and the data: a classifier from a folder, and batches of its sentences."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.exports import quiet
from benchmarks.inputs import Inputs
from benchmarks.models import ModelUnderTest
from examples.finetune_sst2 import HELD_OUT_FILE
from examples.sst2_sentences import read_sentences

if TYPE_CHECKING:
    import torch

Sentence = tuple[str, int]
"""A sentence and its label."""

_LONGEST = 64
_INPUTS = ("input_ids", "attention_mask")


class SavedClassifier(ModelUnderTest):
    """A sequence classifier in Hugging Face's format, as ``examples/finetune_sst2.py`` writes."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder.name)
        self._folder = folder

    @functools.cached_property
    def module(self) -> torch.nn.Module:
        """The torch module, in evaluation mode."""
        from transformers import AutoModelForSequenceClassification

        with quiet():
            model: Any = AutoModelForSequenceClassification.from_pretrained(self._folder)
        return model.eval()  # type: ignore[no-any-return]

    @functools.cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder)

    def held_out(self) -> list[Sentence]:
        """Sentences that the model's training left out, if any."""
        path = self._folder / HELD_OUT_FILE
        return read_sentences(path) if path.exists() else []

    def batches(
        self, sentences: Sequence[Sentence], rows: int, *, by_length: bool = False
    ) -> list[dict[str, Any]]:
        """Batches padded to the longest of each: inputs and labels.

        Args:
            sentences: with their labels.
            rows: sentences in a batch.
            by_length: sentences of near length together, else in their order.
        """
        if by_length:
            sentences = sorted(sentences, key=lambda pair: len(pair[0]))
        made: list[dict[str, Any]] = []
        for start in range(0, len(sentences), rows):
            part = sentences[start : start + rows]
            tokens = self._tokenizer(
                [sentence for sentence, _ in part],
                padding=True,
                truncation=True,
                max_length=_LONGEST,
                return_tensors="np",
            )
            arrays = {name: tokens[name].astype(np.int64) for name in _INPUTS}
            made.append(arrays | {"labels": np.array([label for _, label in part])})
        return made


def inputs_of(batch: dict[str, Any]) -> Inputs:
    """The batch without its labels."""
    return {name: batch[name] for name in _INPUTS}
