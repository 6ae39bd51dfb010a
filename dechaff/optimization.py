"""``optimize``: from a model to a faster one, with the proof that the answers are the same."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from dechaff.backends import SessionSettings
from dechaff.ir import (
    DechaffError,
    Module,
    VerificationFailedError,
    num_parameters,
)
from dechaff.passes import (
    Pass,
    PassList,
    PassObserver,
    PassRecord,
    measure,
    parse_pass_list,
    run_passes,
)

from .bisection import bisect_command
from .fault_search import find_fault
from .input_generation import InputCase, generate_inputs
from .judges import NumbersJudge
from .model_import import batches_of, example_cases, import_model
from .nominal_sizes import nominal_sizes, used_sizes
from .optimized_model import OptimizedModel
from .pass_checks import PassChecker
from .progress import Progress, StepCounter, show_progress
from .reference import Reference
from .report import Report, pass_notes
from .search import MetricFunction, SearchResult, drive, make_request, searched_passes
from .settings import Config, Settings, resolve_settings
from .snapshots import SnapshotWriter
from .target_lowering import lower_for_target
from .trace import TraceRecorder, tracing
from .verification import Verification, weakest_numerics
from .verification_cache import VerificationCache, verify_once
from .versions import package_versions

_CULPRIT_SEARCH_PARAMETERS = 500_000_000
"""Largest model whose failed verification is traced to a pass by running passes one at a time."""


def optimize(
    model: Any,
    example_inputs: Any = None,
    *,
    target: str = "cpu",
    passes: PassList = "default",
    verify: str = "final",
    config: Config | None = None,
    progress: Progress = None,
    trace: str | os.PathLike[str] | None = None,
    snapshots: str | os.PathLike[str] | None = None,
    cache: bool = True,
    session: SessionSettings | None = None,
    tuning_log: str | os.PathLike[str] | None = None,
    metric: str | MetricFunction | None = None,
    data: Iterable[Any] | None = None,
    max_drop: float = 0.01,
    budget: str | float = "10min",
    mode: str = "speed",
    seed: int = 0,
    search_folder: str | os.PathLike[str] | None = None,
) -> OptimizedModel:
    """Make a model faster without changing its answers, or, with a metric, as far as that allows.

    Args:
        model: a ``torch.nn.Module``, ``ExportedProgram`` or ``GraphModule``; the path of an ONNX
            file; an ``onnx.ModelProto``; or an ``onnx_ir.Model``.
        example_inputs: what the model is called with: a tuple of positional arguments, a mapping of
            named ones, an iterable of these (64 are taken) or an ``.npz`` file. Capture of a torch
            module uses the first; verification runs all, beside inputs that it generates.
        target: ``cpu`` (ONNX Runtime and its own operators), ``openvino``, ``auto`` (the faster of
            these two on this machine), ``portable`` (standard operators only); or TVM's ``cuda``,
            ``llvm``, a tag or a target as JSON.
        passes: a pass list such as ``"default,-fuse-bias-gelu"``, or a sequence of these and of
            :class:`dechaff.passes.Pass` objects.
        verify: ``final`` compares the result with the original once; ``each`` compares after every
            pass and leaves out one that changed the numbers; ``off`` compares nothing.
        config: ``target``, ``passes`` and ``verify`` as a mapping or a JSON or TOML file; an
            argument that differs from its default wins over it.
        progress: None shows a bar if stderr is a terminal, False shows nothing, a function is
            called with steps done, number of steps, and a text.
        trace: where to write what each pass did, for ``dechaff view``; written too if the run
            fails. It holds no weights.
        snapshots: an empty folder for the model after each pass that changed it, as ONNX files
            that run; they share one file of weights.
        cache: whether kernel timings and comparisons of earlier runs are used, and new ones kept,
            in the folder ``$DECHAFF_CACHE`` or ``~/.cache/dechaff``.
        session: threads, affinity and memory of the runtime; None for the defaults.
        tuning_log: a folder of ``dechaff tune`` whose schedules generated code takes.
        metric: ``accuracy``, ``f1``, ``spearman``, ``cosine`` (to the original; needs no labels),
            or ``fn(outputs, batch) -> float``, greater is better, where outputs maps names to
            arrays. With it, approximate passes are searched (see :mod:`dechaff.search`).
        data: batches for the metric, each a mapping from input names, and ``labels``, to arrays.
            A third of them is held out from the search, for the report.
        max_drop: how far the metric may fall, in its own units.
        budget: time for the search, such as ``"10min"``.
        mode: ``speed`` or ``size`` give up as much of the metric as ``max_drop`` allows;
            ``accuracy`` keeps only what does not hurt.
        seed: which batches are held out, and in what order the others are run.
        search_folder: where the search writes what it found; the same call goes on from there.

    Returns:
        The optimized model, which is called like the original. Where padding was removed, padded
        positions of its outputs are zero.

    Raises:
        ModelRejectedError: the model cannot be captured or read.
        InputRejectedError: the example inputs do not fit the model.
        UsageError: an unknown pass, option, target or setting.
        VerificationFailedError: the results differ by more than the passes declared.
    """
    started = time.perf_counter()
    settings = resolve_settings(
        config, target=target, passes=passes, verify=verify, cache=cache, tuning_log=tuning_log
    )
    request = make_request(
        metric, data, max_drop=max_drop, budget=budget, mode=mode, seed=seed, folder=search_folder
    )
    listed = settings.passes if request is None else searched_passes(settings.passes)
    chosen = parse_pass_list(listed)
    with show_progress(progress) as report_step, tracing(trace, settings) as recorder:
        steps = StepCounter(report_step, len(chosen) + 3)
        steps.step("capture")
        batches = batches_of(example_inputs)
        module = import_model(model, *batches[:1])
        examples = example_cases(module, batches)
        found: SearchResult | None = None
        if request is not None:
            threads = session or SessionSettings()
            found = drive(module, chosen, request, settings, threads, report_step)
            chosen = list(found.passes)
        writer = SnapshotWriter(snapshots) if snapshots is not None else None
        run = _Run(
            module, examples, chosen, settings, steps, _place(model), recorder, session, writer
        )
        optimized = run.execute()
        steps.finish()
        report = run.report(time.perf_counter() - started, found)
        if recorder is not None:
            recorder.finished(report)
    return OptimizedModel(optimized, report, session, run.compiled)


def _place(model: Any) -> str:
    """What the user calls the model on the command line."""
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else "MODEL.onnx"


class _Run:
    """One optimization: its steps, and what they found."""

    def __init__(
        self,
        module: Module,
        examples: Sequence[InputCase],
        passes: Sequence[Pass],
        settings: Settings,
        steps: StepCounter,
        place: str,
        recorder: TraceRecorder | None = None,
        session: SessionSettings | None = None,
        snapshots: SnapshotWriter | None = None,
    ) -> None:
        self._place = place
        self._original = module.clone()
        self._module = module
        self._examples = list(examples)
        self._example = examples[0].inputs if examples else None
        self._passes = passes
        self._settings = settings
        self._target = settings.target
        self._steps = steps
        self._recorder = recorder
        self._snapshots = snapshots
        self._session = session or SessionSettings()
        self._cache = VerificationCache(use=settings.cache and settings.verify != "off")
        self._records: list[PassRecord] = []
        self._verification = Verification(settings.verify, reason="verification is off")
        self._lowered_ops: Counter[str] = Counter()
        self._has_attention = False
        self._choices: list[str] = []

    def execute(self) -> Module:
        reference = self._reference()
        observers = [self._steps, *self._observers(reference)]
        optimized, self._records = run_passes(self._module, self._passes, observers)
        self._has_attention = any("Attention" in node.op_type for node in optimized.nodes())
        self._steps.step(f"lower for {self._target}")
        started = time.perf_counter()
        lowered = self._lower(optimized)
        if self._recorder is not None:
            self._recorder.lowered(optimized, lowered, time.perf_counter() - started)
        if self._snapshots is not None:
            self._snapshots.lowered(lowered)
        self._lowered_ops = Counter(node.op_type for node in lowered.graph)
        self._steps.step("verify")
        if reference is not None:
            self._verify(reference, optimized, lowered)
        return lowered

    def _lower(self, optimized: Module) -> Module:
        lowered = lower_for_target(
            optimized, self._original, self._settings, self._example, self._session
        )
        self._target, self.compiled = lowered.target, lowered.compiled
        self._choices += lowered.notes
        return lowered.module

    def _observers(self, reference: Reference | None) -> list[PassObserver]:
        """Who checks each pass, and who records it; the check comes first."""
        each = self._settings.verify == "each"
        checker = PassChecker(reference) if each and reference is not None else None
        if self._recorder is not None:
            self._recorder.checker = checker
        observers = (checker, self._recorder, self._snapshots)
        return [observer for observer in observers if observer is not None]

    def _reference(self) -> Reference | None:
        if self._settings.verify == "off":
            return None
        self._cache.prepare(self._original)
        cases = self._examples + generate_inputs(self._original)
        return Reference(self._original, cases, self._session)

    def _verify(self, reference: Reference, passed: Module, lowered: Module) -> None:
        numerics, mode, code = weakest_numerics(self._records), self._settings.verify, self.compiled
        try:
            found = verify_once(self._cache, reference, lowered, numerics, mode, passed, code)
            self._verification, problem = found, found.problem
        except VerificationFailedError as error:
            problem = str(error)
        if problem is not None:
            if self._recorder is not None:
                self._recorder.differs(lowered, reference, self._verification.outputs)
            raise VerificationFailedError(self._failure_text(reference, problem))

    def _failure_text(self, reference: Reference, problem: str) -> str:
        return f"{self._original.source}: {problem}; {self._blame(reference)}"

    def _blame(self, reference: Reference) -> str:
        """What is at fault: a pass, found by checking after each one, or the lowering."""
        lowering = f"no pass is at fault, the lowering for target {self._target} is"
        advice = 'verify="each" leaves out a pass whose numbers are wrong'
        if num_parameters(self._original) > _CULPRIT_SEARCH_PARAMETERS:
            return f"{self._how_to_search()}; {advice}"
        try:
            fault = find_fault(self._original, self._passes, NumbersJudge(reference))
        except DechaffError:
            return advice
        if fault is None:
            return lowering
        return f"the pass at fault is {fault}; {self._how_to_search()}; {advice}"

    def _how_to_search(self) -> str:
        command = bisect_command(self._place, self._settings.passes)
        return f"for a small repro: {command}"

    def report(self, seconds: float, search: SearchResult | None = None) -> Report:
        """What the run did; call after :meth:`execute`."""
        records = tuple(self._records)
        warnings = [
            f"pass {record.name} was left out, its numbers are wrong: {record.undone}"
            for record in records
            if record.undone is not None
        ]
        if self._verification.reason is not None and self._settings.verify != "off":
            warnings.append(f"not verified: {self._verification.reason}")
        if search is not None:
            warnings += search.warnings()
        notes = [*pass_notes(records), *self._choices]
        if not self._has_attention:
            notes.append("the model has no attention that dechaff recognizes")
        return Report(
            source=self._original.source,
            target=self._target,
            records=records,
            sizes=used_sizes(
                nominal_sizes(self._original, self._example),
                [measure(self._original), *(record.after for record in records)],
            ),
            verification=self._verification,
            lowered_ops=self._lowered_ops,
            notes=tuple(notes),
            warnings=tuple(warnings),
            versions=package_versions(),
            session=self._session,
            seconds=seconds,
            search=search,
        )
