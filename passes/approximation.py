"""What the accuracy-driven search asks of a pass that trades accuracy for computation."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from dechaff.ir import Module

from .pass_base import Numerics, Pass
from .pass_context import CalibrationData

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Edit:
    """One approximation that a search may try, and then keep or drop.

    Edits change the *options* of their pass, so that what a search found is a pass list like any
    other: it can be printed, written into a config file, and run again without a search.

    Attributes:
        name: what the edit does, unique within the pass: ``attention.5``, ``layers 3, k=8``.
        level: index into the pass's ``levels``, for the report.
        change: the options with the edit in them, made of those found so far; None where the edit
            no longer applies, since what it changes is gone.
        place: edits of one place exclude each other: once one of them is kept, the others are not
            tried. Empty: the edit stands for itself. Where all edits have one place, such as the
            thresholds of an exit, they are tried in the order given, those that save most first;
            else the search finds the order.
        kind: what the edit saves: the time that edits of one kind save is measured together.
        harm: how much it changes, as far as calibration data tell without a trial; of edits that a
            search compares, those of least harm for what they save come first.
    """

    name: str
    level: int
    change: Callable[[Any], Any | None]
    place: str = ""
    kind: str = ""
    harm: float = 0.0


class Calibration(CalibrationData, Protocol):
    """Inputs that a pass may look at while it proposes edits; a part of the user's data."""

    @property
    def inputs(self) -> Sequence[Mapping[str, Array]]:
        """Batches of graph inputs by name."""
        ...

    def values(self, module: Module, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """What values of the module hold on each batch, by name; a batch at a time."""
        ...


class Approximation(Pass):
    """A pass that a search over the user's metric can drive.

    The search runs the passes before this one, asks it for :meth:`edits`, and tries each as
    ``type(self)(edit.change(options))`` on a copy of the module, by itself and on a sample of the
    data; then it tries choices of edits that do least harm for what they save. It starts from the
    options that the user wrote, keeps the boldest choice that the metric allows, and hands the
    module to the passes behind. A pass's options decide what it does, with the module and the
    calibration data alone.

    Attributes:
        levels: what the levels are called, coarse to fine.
    """

    numerics = Numerics.APPROXIMATE
    levels: ClassVar[tuple[str, ...]]

    @property
    def saves(self) -> frozenset[str]:
        """``time``, ``size`` or both: what the edits can save; else they serve accuracy alone."""
        return frozenset(["time", "size"])

    @property
    def is_idle(self) -> bool:
        """Whether it does nothing but cost time with these options, and is better left out."""
        return False

    @abc.abstractmethod
    def edits(self, module: Module, calibration: Calibration) -> Sequence[Edit]:
        """What could be tried on the module, as it stands where this pass runs.

        Args:
            module: the module; it is not changed.
            calibration: data from the part that the search may see.

        Returns:
            The edits. Alternatives that exclude all others are tried in this order, and the first
            that is allowed is kept; the order of others is the search's own.
        """
