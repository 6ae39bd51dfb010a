"""Sentences with labels from files of tab-separated values, and batches of them."""

from __future__ import annotations

import pathlib
import random
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Example = tuple[list[int], int]
"""Token ids of a sentence, without padding, and its label."""


def read_sentences(path: pathlib.Path) -> list[tuple[str, int]]:
    """The sentences and labels of a file of tab-separated values."""
    if not path.is_file():
        sys.exit(f"{path} does not exist: the data folder holds train.tsv, dev.tsv and test.tsv")
    rows = [line.rsplit("\t", 1) for line in path.read_text("utf-8").splitlines() if line]
    return [(sentence, int(label)) for sentence, label in rows]


def hold_out(
    sentences: Sequence[tuple[str, int]], count: int, seed: int
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Those that stay, and ``count`` others drawn at random, both in the order of the file."""
    if not 0 <= count < len(sentences):
        sys.exit(
            f"--hold-out {count}: expected fewer than the {len(sentences)} sentences there are"
        )
    drawn = set(random.Random(seed).sample(range(len(sentences)), count))
    return (
        [row for number, row in enumerate(sentences) if number not in drawn],
        [row for number, row in enumerate(sentences) if number in drawn],
    )


def write_sentences(path: pathlib.Path, sentences: Sequence[tuple[str, int]]) -> None:
    """A file that ``read_sentences`` reads."""
    path.write_text("".join(f"{text}\t{label}\n" for text, label in sentences), "utf-8")


def length_batches(
    examples: Sequence[Example], batch_size: int, generator: random.Random
) -> list[list[Example]]:
    """Random batches of sentences of near length, so that little is padding."""
    shuffled = list(examples)
    generator.shuffle(shuffled)
    window = 32 * batch_size
    batches: list[list[Example]] = []
    for start in range(0, len(shuffled), window):
        near = sorted(shuffled[start : start + window], key=lambda example: len(example[0]))
        batches += [near[first : first + batch_size] for first in range(0, len(near), batch_size)]
    generator.shuffle(batches)
    return batches


def padded(batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids and mask, int64 ``[batch, sequence]``, and labels, int64 ``[batch]``."""
    import torch

    longest = max(len(ids) for ids, _ in batch)
    input_ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch])
    return input_ids, mask, torch.tensor([label for _, label in batch])
