"""Verification after each pass: an observer that undoes the pass whose numbers are wrong."""

from __future__ import annotations

from dechaff.ir import DechaffError, Module
from dechaff.passes import Numerics, Pass, PassRecord

from .disputes import Truth
from .double_precision import run_in_double
from .input_generation import few_cases
from .reference import Reference, run_cases
from .verification import OutputFigures, compare_outputs


class PassChecker:
    """Compares the graph before and after every pass that changed it; see ``PassObserver``.

    Attributes:
        reference: the original's results.
        figures: how far each output moved in the latest comparison; empty if none was made.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        # Each pass is checked on few tokens, that checking costs no more than the passes; at the
        # end the result is compared on all cases.
        self._chosen = few_cases(reference.cases)
        self._cases = [reference.cases[index] for index in self._chosen]
        self._latest = [reference.outputs[index] for index in self._chosen]
        self.figures: tuple[OutputFigures, ...] = ()

    def pass_starts(self, index: int, count: int, step: Pass) -> None:
        """Nothing to do."""

    def pass_ends(self, before: Module, after: Module, record: PassRecord) -> str | None:
        """The first disagreement as the reason to undo the pass, or None."""
        self.figures = ()
        if self.reference.reason is not None:
            return None
        names = [case.name for case in self._cases]
        try:
            actual = run_cases(after, self._cases, served=False)
            all_masks = self.reference.masks(after.valid_positions)
            masks = [all_masks[index] for index in self._chosen]
        except DechaffError as error:
            return str(error)
        numerics = Numerics(record.numerics)
        truths = (self._in_double(before), self._in_double(after))
        figures = compare_outputs(self._latest, actual, masks, names, numerics, truths)
        self.figures = figures
        for item in figures:
            if item.problem is not None:
                return f"output {item.output!r}, case {item.case!r}: {item.problem}"
        self._latest = actual
        return None

    def _in_double(self, module: Module) -> Truth:
        return lambda case: run_in_double(module, self._cases[case].inputs)
