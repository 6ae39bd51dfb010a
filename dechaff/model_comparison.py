"""What the comparison of two models found: figures for each output, and where they part."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from dechaff.ir import VerificationFailedError

from .closeness import Closeness
from .first_divergence import Divergence
from .verification import OutputFigures


@dataclasses.dataclass(frozen=True)
class OutputComparison:
    """One output of two models, over all cases.

    Attributes:
        figures: the largest error, its limit, and what is wrong.
        closeness: further figures, over valid positions; None if shapes or kinds differ.
    """

    figures: OutputFigures
    closeness: Closeness | None


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """Whether two models agree, and where they part.

    Attributes:
        first: name of the first model, which is the reference.
        second: name of the second.
        outputs: figures per output of the first.
        cases: names of the cases that ran.
        skipped: cases that the first model does not run, with the runtime's reason.
        divergence: the first intermediate value that differs; None if the models agree, or share
            no value on the way to the output.
        earlier: whether an earlier run compared the same two models on the same inputs.
    """

    first: str
    second: str
    outputs: tuple[OutputComparison, ...]
    cases: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    divergence: Divergence | None
    earlier: bool = False

    @property
    def problem(self) -> str | None:
        """The first disagreement in words, or None."""
        for item in self.outputs:
            figures = item.figures
            if figures.problem is not None:
                return f"output {figures.output!r}, case {figures.case!r}: {figures.problem}"
        return None

    @property
    def agree(self) -> bool:
        """Whether every output agrees in every case."""
        return self.problem is None

    def check(self) -> None:
        """Do nothing if the models agree.

        Raises:
            VerificationFailedError: they do not; the message says where they part.
        """
        if self.problem is not None:
            place = f"; {self.divergence}" if self.divergence is not None else ""
            raise VerificationFailedError(
                f"{self.second} differs from {self.first}: {self.problem}{place}"
            )

    def to_json(self) -> str:
        """The comparison as JSON; what is not finite is null."""
        data = self.to_dict() | {"agree": self.agree, "problem": self.problem}
        return json.dumps(_finite(data), indent=2)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return dataclasses.asdict(self)

    def __rich__(self) -> ConsoleRenderable:
        by = " by an earlier run (--no-cache compares again)" if self.earlier else ""
        verdict = "agree" if self.agree else "DIFFER"
        parts: list[Any] = [
            Text(f"{self.first} and {self.second} {verdict} on {len(self.cases)} cases{by}: ")
            + Text(", ".join(self.cases)),
            self._table(),
        ]
        parts += [Text(f"skipped case {name!r}: {reason}") for name, reason in self.skipped]
        parts += [
            Text(f"{item.figures.output}: {item.figures.settled}")
            for item in self.outputs
            if item.figures.settled is not None
        ]
        if self.divergence is not None:
            parts += [
                Text(str(self.divergence)),
                Text(f"  there the second model computes {self.divergence.other_node}"),
            ]
        return Group(*parts)

    def _table(self) -> Table:
        table = Table("output")
        for title in ("max error", "limit", "mean error", "cosine", "arg-max"):
            table.add_column(title, justify="right")
        table.add_column("case")
        for item in self.outputs:
            figures, near = item.figures, item.closeness
            same = None if near is None else near.argmax_agreement
            table.add_row(
                Text(figures.output),
                f"{figures.max_abs_error:.3g}",
                f"{figures.limit:.3g}",
                "-" if near is None else f"{near.mean_abs_error:.3g}",
                "-" if near is None else f"{near.cosine:.9f}",
                "-" if same is None else f"{same:.2%}",
                Text(figures.case),
            )
        return table


def earlier_comparison(data: dict[str, Any], first: str, second: str) -> ModelComparison:
    """An agreement from the data that an earlier run kept, under the models' present names."""
    outputs = [
        OutputComparison(
            OutputFigures(**item["figures"]),
            None if item["closeness"] is None else Closeness(**item["closeness"]),
        )
        for item in data["outputs"]
    ]
    skipped = tuple((name, reason) for name, reason in data["skipped"])
    cases = tuple(data["cases"])
    return ModelComparison(first, second, tuple(outputs), cases, skipped, None, earlier=True)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(item) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(item) for item in data]
    if isinstance(data, float) and data - data != 0:
        return None
    return data
