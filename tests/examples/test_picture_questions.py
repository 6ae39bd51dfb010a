from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from examples import train_picture_questions
from examples.picture_questions import ANSWERS, WORD_IDS, Questions, make_questions

WORDS = {number: word for word, number in WORD_IDS.items()}


def text(questions: Questions, row: int) -> str:
    return " ".join(WORDS[number] for number in questions.ids[row] if number)


def test_the_same_seed_makes_the_same_questions() -> None:
    first, again, other = make_questions(30, 1), make_questions(30, 1), make_questions(30, 2)
    assert np.array_equal(first.pictures, again.pictures)
    assert np.array_equal(first.ids, again.ids)
    assert not np.array_equal(first.ids, other.ids)


def test_neither_the_picture_nor_the_question_alone_tells_the_answer() -> None:
    made = make_questions(2000, 0)
    best_by_question: dict[str, list[int]] = {}
    for row in range(len(made.answers)):
        best_by_question.setdefault(text(made, row), []).append(made.answers[row])
    guessed = sum(np.bincount(answers).max() for answers in best_by_question.values())
    assert guessed / len(made.answers) < 0.65
    by_picture = made.answers.reshape(2000, -1)
    assert np.mean([len(set(answers)) for answers in by_picture]) > 2


def test_questions_of_near_kinds_are_as_often_answered_yes_as_no() -> None:
    made = make_questions(2000, 0)
    asked = np.array(made.kinds) == "is there"
    share = (made.answers[asked] == ANSWERS.index("yes")).mean()
    assert abs(share - 0.5) < 0.05


def test_inputs_are_padded_to_the_longest_question() -> None:
    made = make_questions(10, 0)
    rows = np.array([0, 5, 9])
    inputs = made.inputs(rows)
    lengths = (made.ids[rows] != 0).sum(axis=1)
    assert inputs["question"].shape == (3, lengths.max())
    assert inputs["question_mask"].sum(axis=1).tolist() == lengths.tolist()
    assert inputs["pixels"].shape == (3, 3, 72, 72)
    assert 0 <= inputs["pixels"].min() <= inputs["pixels"].max() <= 1


def test_training_ends_the_same_after_an_interruption(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def run(name: str) -> None:
        sizes = ["--epochs", "2", "--pictures", "4", "--dev-pictures", "4", "--batch-size", "16"]
        train_picture_questions.main(["-o", str(tmp_path / name), *sizes])

    run("whole")
    save = train_picture_questions.Training._save

    def interrupted(self: train_picture_questions.Training, epoch: int) -> None:
        save(self, epoch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train_picture_questions.Training, "_save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("halves")
    run("halves")
    whole, halves = (
        train_picture_questions.load_model(tmp_path / name).state_dict()
        for name in ("whole", "halves")
    )
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    record = json.loads((tmp_path / "halves" / "training.json").read_text())
    assert [entry["epoch"] for entry in record["history"]] == [1, 2]
    with pytest.raises(SystemExit, match="is of other settings"):
        train_picture_questions.main(["-o", str(tmp_path / "whole"), "--seed", "1"])
