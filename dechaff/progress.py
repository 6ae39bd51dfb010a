"""Progress of a run: a bar on a terminal, the caller's own function, or nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Literal

from dechaff.ir import Module
from dechaff.passes import Pass, PassRecord

ProgressFunction = Callable[[int, int, str], None]
"""Called with the steps done, the number of steps, and what comes next."""

Progress = ProgressFunction | Literal[False] | None


@contextlib.contextmanager
def show_progress(progress: Progress) -> Iterator[ProgressFunction]:
    """The function to report steps to: the caller's, a bar's on stderr, or one that is silent.

    A bar appears only if ``progress`` is None and stderr is a terminal.
    """
    if progress is not None and progress is not False:
        yield progress
    elif progress is False or not sys.stderr.isatty():
        yield lambda done, total, text: None
    else:
        with _bar() as report:
            yield report


@contextlib.contextmanager
def _bar() -> Iterator[ProgressFunction]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("dechaff"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, text: bar.update(
            task, completed=done, total=total, description=text
        )


class StepCounter:
    """Counts the steps of one run; as a pass observer it counts passes by itself."""

    def __init__(self, report: ProgressFunction, total: int) -> None:
        self._report = report
        self._total = total
        self._done = -1
        self._text = ""

    def step(self, text: str) -> None:
        """Say that the next step begins (and the one before it is done)."""
        self._done += 1
        self._text = text
        self._report(self._done, self._total, text)

    def detail(self, text: str) -> None:
        """Say what the step is about."""
        self._report(self._done, self._total, f"{self._text}: {text}")

    def finish(self) -> None:
        """Say that all is done."""
        self._report(self._total, self._total, "done")

    def pass_starts(self, index: int, count: int, step: Pass) -> None:
        """Count a pass."""
        self.step(step.name)

    def pass_ends(self, before: Module, after: Module, record: PassRecord) -> str | None:
        """Nothing to say against the pass."""
        return None
