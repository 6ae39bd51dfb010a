"""What a pass is: a name, options, declared numerics, and one method that edits a module."""

from __future__ import annotations

import abc
import dataclasses
import enum
from typing import Any, ClassVar

from dechaff.ir import Module

from .rewriter import Rewriter


class Numerics(enum.Enum):
    """How the numbers after a pass relate to the numbers before it."""

    EXACT = "exact"
    """Bit for bit the same on valid positions: the same operations on the same operands."""
    REASSOCIATES = "reassociates"
    """The same mathematics, summed in another order: equal up to rounding."""
    APPROXIMATE = "approximate"
    """A different function; it answers to the user's metric, and is never a default."""


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a pass that has none."""


class Pass(abc.ABC):
    """One rewrite of the graph.

    A subclass declares the class attributes below and implements :meth:`apply`. The module is
    valid before and after; between the two anything goes. All edits go through the rewriter, which
    records what made each node and from what.

    Attributes:
        name: kebab-case verb phrase; the file has the same name in snake_case.
        numerics: what the pass promises about the numbers.
        after: names of passes that must run earlier, where both are in a pipeline.
        runs_last: whether the pass runs behind all that are not so, wherever a list names it: what
            it does to the graph would hide from others what they look for.
        options_type: frozen dataclass, from which the command line's syntax is derived:
            ``fold-constants{max_bytes=1024}`` sets the field ``max_bytes``.
        options: the options of this instance.
    """

    name: ClassVar[str]
    numerics: ClassVar[Numerics]
    after: ClassVar[tuple[str, ...]] = ()
    runs_last: ClassVar[bool] = False
    options_type: ClassVar[type[Any]] = NoOptions

    def __init__(self, options: Any = None) -> None:
        self.options = self.options_type() if options is None else options

    @abc.abstractmethod
    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Edit the module in place, through the rewriter."""

    def __str__(self) -> str:
        """The pass as it is written in a pass list, options that differ from their default only."""
        given = [
            f"{field.name}={_option_text(getattr(self.options, field.name))}"
            for field in dataclasses.fields(self.options)
            if getattr(self.options, field.name) != field.default
        ]
        return f"{self.name}{{{','.join(given)}}}" if given else self.name


def _option_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
