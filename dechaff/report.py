"""What an optimization did: per pass, in figures, with what nearly applied and what was proved."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console, ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from dechaff.backends import SessionSettings
from dechaff.passes import GraphSize, Miss, PassRecord

from .nominal_sizes import evaluate
from .search.result import SearchResult
from .verification import Verification

_TEXT_WIDTH = 120
_SHOWN_REASON = 400


@dataclasses.dataclass(frozen=True)
class Report:
    """The record of one call of ``optimize``; prints as a table.

    Attributes:
        source: where the model came from.
        target: what it was lowered for.
        records: what each pass did, in order.
        sizes: the sizes at which FLOPs and bytes are evaluated, by symbol.
        verification: what was compared, and how near the results are.
        lowered_ops: operators of the lowered graph, by name, with their number.
        notes: what a reader should know: what passes decided, or declined, and why.
        warnings: what a reader must know: passes undone, nothing verified.
        versions: versions of the packages that took part.
        seconds: wall-clock time of the whole call.
        session: threads, affinity and memory that the model runs with.
        search: what a search over the caller's metric found; None if there was none.
    """

    source: str
    target: str
    records: tuple[PassRecord, ...]
    sizes: Mapping[str, float]
    verification: Verification
    lowered_ops: Counter[str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    versions: Mapping[str, str]
    seconds: float
    session: SessionSettings = dataclasses.field(default_factory=SessionSettings)
    search: SearchResult | None = None

    def explain(self) -> str:
        """The near misses of every pass: the op in text form and the condition that stopped it."""
        lines = [
            f"{record.name}: {miss.rule} did not apply at\n"
            f"    {miss.node}\n    because {miss.reason}"
            for record in self.records
            for miss in record.misses
        ]
        return "\n".join(lines) if lines else "no rule came near without applying"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; formulas as text, figures beside them."""
        return {
            "source": self.source,
            "target": self.target,
            "sizes": dict(self.sizes),
            "passes": [self._record_data(record) for record in self.records],
            "lowered_ops": dict(sorted(self.lowered_ops.items())),
            "verification": _verification_data(self.verification),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "versions": dict(self.versions),
            "session": dataclasses.asdict(self.session) | {"threads": self.session.num_threads},
            "seconds": self.seconds,
            "search": None if self.search is None else self.search.to_dict(),
        }

    def to_json(self) -> str:
        """The report as JSON; infinite and undefined figures are null."""
        return json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False)

    def __str__(self) -> str:
        return render_text(self)

    def __rich__(self) -> ConsoleRenderable:
        lines = [f"warning: {text}" for text in self.warnings]
        lines += [f"note: {text}" for text in self.notes]
        searched: list[ConsoleRenderable] = []
        if self.search is not None:
            searched = [self.search.table(), self.search.summary()]
        texts = [Text(line) for line in [self._summary(), *lines]]
        return Group(self._table(), *searched, *texts)

    def _repr_html_(self) -> str:
        console = Console(record=True, width=_TEXT_WIDTH, file=io.StringIO())
        console.print(self)
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    def _table(self) -> Table:
        title = Text(f"dechaff: {self.source} for {self.target}")
        table = Table(title=title, title_justify="left")
        table.add_column("pass", overflow="fold")
        table.add_column("what it did", overflow="fold")
        for heading in ("ops", "GFLOPs", "MB moved", "ms", "near misses"):
            table.add_column(heading, justify="right")
        for record in self.records:
            table.add_row(
                Text(record.name),
                Text(_what_it_did(record)),
                _arrow(record.before.num_ops, record.after.num_ops),
                self._figures(record, "flops", 1e9),
                self._figures(record, "bytes_moved", 1e6),
                f"{1000 * record.seconds:.0f}",
                str(len(record.misses) or ""),
            )
        return table

    def _figures(self, record: PassRecord, quantity: str, unit: float) -> str:
        before, after = (
            evaluate(getattr(size, quantity), self.sizes) / unit
            for size in (record.before, record.after)
        )
        return _arrow(f"{before:.4g}", f"{after:.4g}")

    def _summary(self) -> str:
        sizes = ", ".join(f"{name} = {size:g}" for name, size in self.sizes.items())
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "\n".join(
            [
                *([f"figures at {sizes}"] if sizes else []),
                f"lowered for {self.target} to {self.lowered_ops.total()} ops",
                *_verification_lines(self.verification),
                f"session: {self.session}",
                f"{self.seconds:.1f} s in all; {versions}",
            ]
        )

    def _record_data(self, record: PassRecord) -> dict[str, Any]:
        return {
            "name": record.name,
            "numerics": record.numerics,
            "changed": record.changed,
            "undone": record.undone,
            "seconds": record.seconds,
            "rewrites": dict(Counter(rewrite.rule for rewrite in record.rewrites)),
            "notes": list(record.notes),
            "near_misses": [dataclasses.asdict(miss) for miss in record.misses],
            "before": _size_data(record.before, self.sizes),
            "after": _size_data(record.after, self.sizes),
        }


def pass_notes(records: tuple[PassRecord, ...]) -> list[str]:
    """What passes decided; and for each that changed nothing, the first thing that stopped it."""
    notes: list[str] = []
    for record in records:
        notes += record.notes
        if record.rewrites or not record.misses:
            continue
        more = len(record.misses) - 1
        others = f" (and {more} more)" if more else ""
        notes.append(f"{record.name} changed nothing: {miss_text(record.misses[0])}{others}")
    return notes


def miss_text(miss: Miss) -> str:
    """A near miss on one line: the reason, then the op in text form."""
    reason = miss.reason.replace("\n", " ")
    return f"{reason[:_SHOWN_REASON]}, at {miss.node}"


def render_text(renderable: Any, width: int = _TEXT_WIDTH) -> str:
    """Anything rich can show, as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=width, no_color=True, force_terminal=False).print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _what_it_did(record: PassRecord) -> str:
    if record.undone is not None:
        return "undone, see the warning"
    rules = Counter(rewrite.rule for rewrite in record.rewrites)
    return ", ".join(f"{rule} x{count}" for rule, count in rules.items()) or "nothing"


def _arrow(before: object, after: object) -> str:
    return str(before) if before == after else f"{before} -> {after}"


def _verification_lines(verification: Verification) -> list[str]:
    lines = [_verification_headline(verification)]
    lines += [
        f"  {item.output}: maximum absolute error {item.max_abs_error:.3g}"
        f" (tolerance {item.limit:.3g}, case {item.case!r})"
        for item in verification.outputs
    ]
    lines += [
        f"  {item.output}: {item.settled}"
        for item in verification.outputs
        if item.settled is not None
    ]
    lines += [
        f"  skipped case {name!r}: the original does not run on it: {reason}"
        for name, reason in verification.skipped
    ]
    return lines


def _verification_headline(verification: Verification) -> str:
    if verification.reason is not None:
        return f"not verified: {verification.reason}"
    earlier = " by an earlier run (--no-cache compares again)" if verification.earlier else ""
    names = ", ".join(verification.cases)
    return f"verified on {len(verification.cases)} cases{earlier}: {names}"


def _verification_data(verification: Verification) -> dict[str, Any]:
    return {
        "mode": verification.mode,
        "verified": verification.verified,
        "earlier": verification.earlier,
        "reason": verification.reason,
        "cases": list(verification.cases),
        "skipped": [{"case": name, "reason": reason} for name, reason in verification.skipped],
        "outputs": [dataclasses.asdict(item) for item in verification.outputs],
    }


def _size_data(size: GraphSize, sizes: Mapping[str, float]) -> dict[str, Any]:
    return {
        "num_ops": size.num_ops,
        "ops": dict(sorted(size.ops.items())),
        "parameters": size.parameters,
        "flops": evaluate(size.flops, sizes),
        "flops_formula": str(size.flops),
        "bytes_moved": evaluate(size.bytes_moved, sizes),
        "bytes_moved_formula": str(size.bytes_moved),
    }


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(item) for key, item in data.items()}
    if isinstance(data, list):
        return [_finite(item) for item in data]
    if isinstance(data, float) and data - data != 0:
        return None
    return data
