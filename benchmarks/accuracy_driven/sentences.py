"""The model and the data: a classifier from a folder, and batches of its sentences."""

from __future__ import annotations

import functools
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.exports import quiet
from benchmarks.inputs import Inputs
from benchmarks.models import ModelUnderTest
from examples.sst2_sentences import read_sentences

if TYPE_CHECKING:
    import torch

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

    def batches(
        self,
        data: pathlib.Path,
        split: str,
        rows: int,
        limit: int | None,
        *,
        by_length: bool = False,
    ) -> list[dict[str, Any]]:
        """Batches padded to the longest of each: inputs and labels.

        Args:
            data: folder of ``dev.tsv`` and ``test.tsv``.
            split: ``dev`` or ``test``.
            rows: sentences in a batch.
            limit: only so many sentences.
            by_length: sentences of near length together, else in the order of the file.
        """
        sentences = read_sentences(data / f"{split}.tsv")[:limit]
        if by_length:
            sentences.sort(key=lambda pair: len(pair[0]))
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
