"""The trace of a run: an observer that writes down what each pass did to the graph."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dechaff.ir import DechaffError, Module, UsageError
from dechaff.passes import GraphSize, Numerics, Pass, PassRecord

from .pass_checks import PassChecker
from .reference import Reference
from .report import Report
from .settings import Settings
from .trace_code import code_data
from .trace_file import FORMAT, VERSION, graph_difference, write_trace
from .trace_graph import GraphData, GraphRecorder
from .value_errors import errors_of_pass
from .verification import OutputFigures
from .versions import package_versions

if TYPE_CHECKING:
    from dechaff.backends.tvm.compiled_model import CompiledModel

TracePath = str | os.PathLike[str]


@dataclasses.dataclass
class _Seen:
    """What the observer saw of one pass."""

    step: Pass
    record: PassRecord | None = None
    before: GraphData | None = None
    after: GraphData | None = None
    errors: tuple[OutputFigures, ...] = ()
    node_errors: dict[str, Any] | None = None


class TraceRecorder:
    """Records a run; see ``PassObserver``. Graphs are kept as plain data, weights as digests.

    Attributes:
        checker: verifies after each pass and knows the errors; None outside that mode.
    """

    def __init__(self, settings: Settings) -> None:
        self.checker: PassChecker | None = None
        self._settings = settings
        self._graphs = GraphRecorder()
        self._seen: list[_Seen] = []
        self._source = "model"
        self._final: GraphData | None = None
        self._lowered: tuple[GraphData, float] | None = None
        self._code: dict[str, Any] | None = None
        self._wrong: dict[str, Any] | None = None
        self._report: Report | None = None

    def pass_starts(self, index: int, count: int, step: Pass) -> None:
        """Note which pass runs."""
        self._seen.append(_Seen(step))

    def pass_ends(self, before: Module, after: Module, record: PassRecord) -> str | None:
        """Record the graph; nothing to say against the pass."""
        seen = self._seen[-1]
        seen.record = record
        if all(earlier.after is None for earlier in self._seen):
            seen.before = self._graphs.record(before)
        seen.after = self._graphs.record(after)
        if self.checker is not None:
            seen.errors = self.checker.figures
            if _is_worth_a_look(record, seen.errors):
                reference = self.checker.reference
                seen.node_errors = errors_of_pass(before, after, reference, seen.errors)
        return None

    def lowered(
        self,
        optimized: Module,
        lowered: Module,
        seconds: float,
        compiled: CompiledModel | None = None,
    ) -> None:
        """Record what lowering made of the optimized module, and the code generated for it."""
        self._source = optimized.source
        self._final = self._graphs.record(optimized)
        self._lowered = (self._graphs.record(lowered), seconds)
        self._code = None if compiled is None else code_data(compiled)

    def differs(
        self, lowered: Module, reference: Reference, figures: Sequence[OutputFigures]
    ) -> None:
        """Record where the lowered module, whose outputs are wrong, departs from the original."""
        self._wrong = errors_of_pass(reference.module, lowered, reference, figures)

    def finished(self, report: Report) -> None:
        """Take over what the report knows."""
        self._report = report

    def data(self, error: str | None = None) -> dict[str, Any]:
        """The trace as ``trace.schema.json`` describes it; ``error`` is what ended the run."""
        report = self._report
        records = report.records if report is not None else ()
        initial = self._initial()
        trace: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "kind": "optimization",
            "source": report.source if report is not None else self._source,
            "options": {
                "target": self._settings.target,
                "verify": self._settings.verify,
                "passes": [str(seen.step) for seen in self._seen],
            },
            "versions": package_versions(),
            "sizes": dict(report.sizes) if report is not None else {},
            "notes": list(report.notes) if report is not None else [],
            "warnings": list(report.warnings) if report is not None else [],
            "initial": initial,
            "steps": self._steps(initial, records),
        }
        if report is not None:
            trace["seconds"] = report.seconds
            trace["verification"] = report.to_dict()["verification"]
        if error is not None:
            trace["error"] = error
        data: dict[str, Any] = finite(trace)
        return data

    def _initial(self) -> GraphData:
        first = next((seen.before for seen in self._seen if seen.before is not None), None)
        return (
            first
            or self._final
            or {
                "inputs": [],
                "outputs": [],
                "order": [],
                "nodes": {},
                "weights": {},
            }
        )

    def _steps(self, initial: GraphData, records: Sequence[PassRecord]) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = []
        graph = initial
        for index, seen in enumerate(self._seen):
            record = records[index] if index < len(records) else seen.record
            step = _step(seen, record)
            if seen.after is not None:
                step["difference"] = graph_difference(graph, seen.after)
                if record is None or record.undone is None:
                    graph = seen.after
            steps.append(step)
        if self._lowered is not None:
            lowered, seconds = self._lowered
            step = {
                "name": f"lower for {self._settings.target}",
                "kind": "lowering",
                "summary": "Replaces the operators of the dialect by ones the runtime has.",
                "seconds": seconds,
                "changed": True,
                "difference": graph_difference(graph, lowered),
            }
            code = {"code": self._code} if self._code is not None else {}
            steps.append(step | code | ({"node_errors": self._wrong} if self._wrong else {}))
        return steps


def _is_worth_a_look(record: PassRecord, errors: Sequence[OutputFigures]) -> bool:
    """Whether the values inside are fetched, which costs as much as two checks of a pass."""
    is_wrong = any(figures.problem is not None for figures in errors)
    return is_wrong or record.numerics == Numerics.APPROXIMATE.value


def _step(seen: _Seen, record: PassRecord | None) -> dict[str, Any]:
    step: dict[str, Any] = {
        "name": str(seen.step),
        "kind": "pass",
        "numerics": seen.step.numerics.value,
        "summary": _first_sentence(seen.step),
        "changed": record is not None and record.changed,
    }
    if record is None:
        return step
    if seen.node_errors is not None:
        step["node_errors"] = seen.node_errors
    return step | {
        "seconds": record.seconds,
        "undone": record.undone,
        "rewrites": [dataclasses.asdict(rewrite) for rewrite in record.rewrites],
        "near_misses": [dataclasses.asdict(miss) for miss in record.misses],
        "notes": list(record.notes),
        "before": size_data(record.before),
        "after": size_data(record.after),
        "errors": [dataclasses.asdict(figures) for figures in seen.errors],
    }


def _first_sentence(step: Pass) -> str:
    text = inspect.getdoc(type(step)) or ""
    return " ".join(text.partition("\n\n")[0].split())


def size_data(size: GraphSize) -> dict[str, Any]:
    """The size of a graph, formulas as text."""
    return {
        "num_ops": size.num_ops,
        "ops": dict(sorted(size.ops.items())),
        "parameters": size.parameters,
        "flops": str(size.flops),
        "bytes": str(size.bytes_moved),
    }


@contextlib.contextmanager
def tracing(path: TracePath | None, settings: Settings) -> Iterator[TraceRecorder | None]:
    """A recorder whose trace is written at the end, and also when the run fails.

    Raises:
        UsageError: the trace cannot be written.
    """
    if path is None:
        yield None
        return
    if not pathlib.Path(path).absolute().parent.is_dir():
        raise UsageError(f"cannot write the trace {os.fspath(path)}: there is no such folder")
    recorder = TraceRecorder(settings)
    try:
        yield recorder
    except DechaffError as error:
        with contextlib.suppress(DechaffError):  # the run's own error is the one to tell
            write_trace(recorder.data(str(error)), path)
        raise
    write_trace(recorder.data(), path)


def finite(data: Any) -> Any:
    """The data with infinite and undefined figures as None: JSON has no such numbers."""
    if isinstance(data, dict):
        return {key: finite(item) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(item) for item in data]
    if isinstance(data, float) and data - data != 0:
        return None
    return data
