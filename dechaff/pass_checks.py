"""Verification after each pass: an observer that undoes the pass whose numbers are wrong."""

from __future__ import annotations

from dechaff.ir import DechaffError, Module
from dechaff.passes import Numerics, Pass, PassRecord

from .arrays import Arrays
from .reference import Reference, run_cases
from .verification import OutputFigures, compare_outputs, truths_of


class PassChecker:
    """Compares the graph before and after every pass that changed it; see ``PassObserver``.

    Attributes:
        reference: the original's results.
        figures: how far each output moved in the latest comparison; empty if none was made.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._latest: list[Arrays] | None = None
        self.figures: tuple[OutputFigures, ...] = ()

    def pass_starts(self, index: int, count: int, step: Pass) -> None:
        """Nothing to do."""

    def pass_ends(self, before: Module, after: Module, record: PassRecord) -> str | None:
        """The first disagreement as the reason to undo the pass, or None."""
        self.figures = ()
        # Each pass is checked on few tokens, that checking costs no more than the passes; at the
        # end the result is compared on all cases.
        reference = self.reference.few
        if reference.reason is not None:
            return None
        names = [case.name for case in reference.cases]
        try:
            actual = run_cases(after, reference.cases, served=False, settings=reference.settings)
            masks = reference.masks(after.valid_positions)
        except DechaffError as error:
            return str(error)
        latest = reference.outputs if self._latest is None else self._latest
        if after.vocabulary is not None:
            latest = [after.vocabulary.columns(outputs) for outputs in latest]
        numerics, truths = Numerics(record.numerics), truths_of(reference, after, before)
        figures = compare_outputs(latest, actual, masks, names, numerics, truths)
        self.figures = figures
        for item in figures:
            if item.problem is not None:
                return f"output {item.output!r}, case {item.case!r}: {item.problem}"
        self._latest = actual
        return None
