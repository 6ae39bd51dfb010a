"""Batches of padded sequences."""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Inputs = dict[str, Array]

Lengths = Literal["uniform", "full", "text"]
LENGTHS: tuple[Lengths, ...] = get_args(Lengths)

_SEED = 7
_SHORTEST = 0.2


def make_inputs(batch: int, sequence: int, lengths: Lengths, vocabulary: int) -> Inputs:
    """Random tokens, padded on the right; the same in every run.

    Args:
        batch: number of rows.
        sequence: padded length.
        lengths: ``uniform`` on [0.2 * sequence, sequence] as in ByteTransformer's protocol, but
            spread evenly, in random order: the share of valid tokens is then 0.6 and not luck, and
            one row has the full length, so that no column goes unused. ``full`` has no padding.
            ``text`` takes the lengths of paragraphs of Python's documentation in MiniLM's tokens,
            cut to ``sequence``; the batch is then only as long as its longest.
        vocabulary: number of token ids.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 ``[batch, sequence]``.
    """
    generator = np.random.default_rng(_SEED)
    row_lengths = _row_lengths(batch, sequence, lengths, generator)
    sequence = int(row_lengths.max())
    mask = (np.arange(sequence) < row_lengths[:, None]).astype(np.int64)
    tokens = generator.integers(1, vocabulary, (batch, sequence))
    return {"input_ids": tokens * mask, "attention_mask": mask}


def _row_lengths(
    batch: int, sequence: int, lengths: Lengths, generator: np.random.Generator
) -> Array:
    if lengths == "full":
        return np.full(batch, sequence)
    if lengths == "text":
        drawn: Array = np.minimum(generator.choice(paragraph_lengths(), batch), sequence)
        return drawn
    spread = np.linspace(sequence, _SHORTEST * sequence, batch)
    shuffled: Array = generator.permutation(np.maximum(spread.round().astype(np.int64), 1))
    return shuffled


@functools.cache
def paragraph_lengths() -> tuple[int, ...]:
    """Tokens of each paragraph, in the order of the text; the median is about 50."""
    from tokenizers import Tokenizer

    from examples.sentence_embeddings import read_paragraphs, weights_folder

    tokenizer = Tokenizer.from_file(str(weights_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    prose = [text for text in read_paragraphs() if text.endswith(".")]
    return tuple(len(paragraph.ids) for paragraph in tokenizer.encode_batch(prose))


def valid_share(inputs: Inputs) -> float:
    """Share of the positions that hold a token, T / (B * S)."""
    return float(inputs["attention_mask"].mean())


def single_sequences(inputs: Inputs) -> list[Inputs]:
    """Each row as a batch of its own, cut to its length."""
    lengths = inputs["attention_mask"].sum(axis=1)
    return [
        {
            name: np.ascontiguousarray(array[row : row + 1, :length])
            for name, array in inputs.items()
        }
        for row, length in enumerate(lengths)
    ]
