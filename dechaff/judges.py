"""What decides whether a rewritten model is still right: numbers, or a command of the user's."""

from __future__ import annotations

import pathlib
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dechaff.ir import DechaffError, Module, UsageError
from dechaff.passes import Numerics

from .input_generation import InputCase
from .model_files import save_module
from .model_verification import compare_modules
from .reference import Reference, run_cases
from .verification import compare_outputs, truths_of


class Judge(Protocol):
    """Says what is wrong with a model that was made from another."""

    def judge(self, after: Module) -> str | None:
        """What is wrong with a rewrite of the original, or None."""
        ...

    def judge_pair(self, before: Module, after: Module, case: InputCase) -> str | None:
        """What is wrong with one model, given another that is right, or None."""
        ...


class NumbersJudge:
    """Compares outputs with those of the original, as the tolerance of their dtype allows."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def judge(self, after: Module) -> str | None:
        """The first output that differs, or None."""
        reference = self._reference.with_vocabulary(after.vocabulary)
        names = [case.name for case in reference.cases]
        try:
            actual = run_cases(after, reference.cases, served=False)
            masks = reference.masks(after.valid_positions)
        except DechaffError as error:
            return str(error)
        numerics, truths = Numerics.REASSOCIATES, truths_of(reference, after)
        figures = compare_outputs(reference.outputs, actual, masks, names, numerics, truths)
        for item in figures:
            if item.problem is not None:
                return f"output {item.output!r}, case {item.case!r}: {item.problem}"
        return None

    def judge_pair(self, before: Module, after: Module, case: InputCase) -> str | None:
        """The first output in which the two differ, or None."""
        try:
            return compare_modules(before, after, [case]).problem
        except DechaffError as error:
            return str(error)


class CommandJudge:
    """Runs a command on two model files; it fails where the second is wrong."""

    def __init__(self, command: str, original: Module, case: InputCase) -> None:
        """Take a command.

        Args:
            command: words as a shell would split them; ``{before}`` and ``{after}`` stand for the
                two models, ``{inputs}`` for an ``.npz`` file of inputs. No shell runs it.
            original: the model before all passes.
            case: inputs of the original.

        Raises:
            UsageError: the command cannot be split or names no ``{after}``.
        """
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--check {command!r}: {error}") from error
        if not any("{after}" in word for word in self._words):
            raise UsageError(f"--check {command!r}: expected {{after}} in it, and {{before}}")
        self._original = original
        self._case = case

    def judge(self, after: Module) -> str | None:
        """How the command fails on a rewrite of the original, or None."""
        return self.judge_pair(self._original, after, self._case)

    def judge_pair(self, before: Module, after: Module, case: InputCase) -> str | None:
        """How the command fails on the two models, or None.

        Raises:
            UsageError: there is no such program.
        """
        with tempfile.TemporaryDirectory(prefix="dechaff-check-") as name:
            folder = pathlib.Path(name)
            places = {
                "{before}": folder / "before.onnx",
                "{after}": folder / "after.onnx",
                "{inputs}": folder / "inputs.npz",
            }
            save_module(before, places["{before}"], metadata={})
            save_module(after, places["{after}"], metadata={})
            np.savez(places["{inputs}"], **case.inputs)  # type: ignore[arg-type]
            return _run([_filled(word, places) for word in self._words])


def _filled(word: str, places: dict[str, pathlib.Path]) -> str:
    for mark, path in places.items():
        word = word.replace(mark, str(path))
    return word


def _run(words: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UsageError(f"--check: cannot run {words[0]}: {error.strerror}") from error
    if done.returncode == 0:
        return None
    last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
    return f"the check ends in {done.returncode}: {last}"
