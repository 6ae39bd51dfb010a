"""Pictures, questions and answers, made by chance: the same for the same seed."""

from __future__ import annotations

import numpy as np

from benchmarks.inputs import Array

_GRID, _COLOURS, _SHAPES = 4, 4, 4
CELLS = _GRID * _GRID
QUESTION = 4
_KINDS = ("colour of a cell", "shape of a cell", "how many of a colour")
WORDS = len(_KINDS) + 2 * _GRID + _COLOURS + 1
ANSWERS = _COLOURS + _SHAPES + CELLS + 1
FEATURES = 16
_NOISE = 0.25


def make_examples(count: int, seed: int) -> dict[str, Array]:
    """Pictures float32[n, 16, 16], questions int64[n, 4], masks, and answers int64[n]."""
    generator = np.random.default_rng(seed)
    looks = np.random.default_rng(0).standard_normal((_COLOURS + _SHAPES, FEATURES))
    colours = generator.integers(0, _COLOURS, (count, CELLS))
    shapes = generator.integers(0, _SHAPES, (count, CELLS))
    pictures = looks[colours] + looks[_COLOURS + shapes]
    pictures += _NOISE * generator.standard_normal(pictures.shape)
    kinds = generator.integers(0, len(_KINDS), count)
    rows, columns = (generator.integers(0, _GRID, count) for _ in range(2))
    asked = generator.integers(0, _COLOURS, count)
    cell = rows * _GRID + columns
    every = np.arange(count)
    first_word = len(_KINDS)
    counts = kinds == 2
    words = np.stack([kinds, first_word + rows, first_word + _GRID + columns], axis=1)
    words[counts, 1] = first_word + 2 * _GRID + asked[counts]
    questions = np.concatenate([words, np.full((count, 1), WORDS - 1)], axis=1)
    mask = np.ones((count, QUESTION), np.int64)
    mask[counts, 2:] = 0
    mask[:, 3] = 0
    answers = np.select(
        [kinds == 0, kinds == 1],
        [colours[every, cell], _COLOURS + shapes[every, cell]],
        _COLOURS + _SHAPES + (colours == asked[:, None]).sum(axis=1),
    )
    return {
        "picture": pictures.astype(np.float32),
        "question": questions.astype(np.int64),
        "question_mask": mask,
        "answer": answers.astype(np.int64),
    }
