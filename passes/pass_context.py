"""What a pass may know beyond the graph: the machine, and activations of calibration data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, UsageError

Arrays = dict[str, np.ndarray[Any, Any]]
_T = TypeVar("_T")


class ActivationWalk(Protocol):
    """One walk of the calibration data through a graph, which may be edited ahead of the walk."""

    def advance(self, values: Sequence[ir.Value]) -> Iterator[Arrays]:
        """Compute values of the graph, as it stands now, on each batch of the data.

        Every node runs once: what nodes ahead still need is kept. Values asked for must not lie
        behind what was asked for before. The iterator is to be used up before the next call.

        Args:
            values: values of the main graph.

        Yields:
            For each batch, the arrays by the values' names.
        """
        ...


class OutputTrials(Protocol):
    """A module on the calibration data, with other numbers in some of its constants."""

    def error(self, replaced: Mapping[ir.Value, np.ndarray[Any, Any]]) -> float:
        """The squared change of the outputs, as a share of their squares; the mean over outputs."""
        ...


class CorpusTokens(Protocol):
    """The tokens of a corpus, as its tokenizer numbers them."""

    @property
    def unknown(self) -> int | None:
        """The unknown token; None if there is none."""
        ...

    @property
    def special(self) -> Set[int]:
        """The special tokens."""
        ...

    @property
    def used(self) -> Set[int]:
        """The tokens of the corpus's text."""
        ...


class CalibrationData(Protocol):
    """Inputs that stand for those that the model will be served."""

    @property
    def tokens(self) -> CorpusTokens | None:
        """What the tokenizer says; None if none was given."""
        ...

    def walk(self, module: Module) -> ActivationWalk:
        """Begin a walk through a graph that has the inputs of the model under optimization."""
        ...

    def trials(self, module: Module, constants: Sequence[ir.Value]) -> OutputTrials:
        """Run the module, to compare with it when these constants hold other numbers.

        The module must not change as long as trials go on.
        """
        ...

    def measured(self, what: str, module: Module, measure: Callable[[], Any]) -> Any:
        """What ``measure`` gives, or gave of an equal module on this data in an earlier run.

        Args:
            what: names what is measured, with all that it depends on beside module and data.
            module: the module that is measured.
            measure: gives something that JSON can hold.
        """
        ...


@dataclasses.dataclass(frozen=True)
class PassContext:
    """What passes are told beside the graph.

    Attributes:
        calibration: inputs to measure activations on; None if the caller gave none.
        products_saturate: whether this machine's products of 8-bit integers saturate, so that
            weights must keep to 7 bits.
        known: what one pass computed of one module, for when it runs on copies of it again.
        report: is told what a pass that takes long is about, for the progress bar.
    """

    calibration: CalibrationData | None = None
    products_saturate: bool = False
    known: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    report: Callable[[str], None] = dataclasses.field(
        default=lambda _: None, compare=False, repr=False
    )

    def fresh(self) -> PassContext:
        """The same for another pass, or for another module."""
        return dataclasses.replace(self, known={})

    def once(self, name: str, compute: Callable[[], _T]) -> _T:
        """What ``compute`` gives; where the pass ran on a copy of the module before, gave then."""
        if name not in self.known:
            self.known[name] = compute()
        found: _T = self.known[name]
        return found

    def calibration_for(self, name: str) -> CalibrationData:
        """The calibration data, for a pass that cannot do without.

        Raises:
            UsageError: there is none.
        """
        if self.calibration is None:
            raise UsageError(
                f"pass {name} needs calibration data: give calibration= (in Python: batches of "
                "inputs by name) or --calibration PATH (a folder of .npz files, or a text file "
                "with --tokenizer)"
            )
        return self.calibration
