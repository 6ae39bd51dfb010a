"""One optimization as it runs: passes, lowering, verification, and what they found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from dechaff.backends import SessionSettings, products_saturate
from dechaff.ir import (
    DechaffError,
    Module,
    VerificationFailedError,
    num_parameters,
)
from dechaff.passes import (
    Pass,
    PassContext,
    PassObserver,
    PassRecord,
    measure,
    run_passes,
)

from .arrays import Array
from .bisection import bisect_command
from .calibration import Calibration
from .fault_search import find_fault
from .input_generation import InputCase, generate_inputs
from .judges import NumbersJudge
from .nominal_sizes import nominal_sizes, used_sizes
from .padding_choice import choose_padding
from .pass_checks import PassChecker
from .progress import StepCounter
from .reference import Reference
from .report import Report, pass_notes
from .search import SearchResult
from .settings import AUTO, Settings
from .snapshots import SnapshotWriter
from .target_lowering import lower_for_target
from .trace import TraceRecorder
from .verification import Verification, weakest_numerics
from .verification_cache import VerificationCache, verify_once
from .versions import package_versions

_CULPRIT_SEARCH_PARAMETERS = 500_000_000
"""Largest model whose failed verification is traced to a pass by running passes one at a time."""


class OptimizationRun:
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
        calibration: Calibration | None = None,
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
        self._context = PassContext(calibration, products_saturate(), report=steps.detail)
        self._session = session or SessionSettings()
        self._cache = VerificationCache(use=settings.cache and settings.verify != "off")
        self._records: list[PassRecord] = []
        self._verification = Verification(settings.verify, reason="verification is off")
        self._lowered_ops: Counter[str] = Counter()
        self._has_attention = False
        self._choices: list[str] = []

    def execute(self) -> Module:
        """Run the passes, lower the result and verify it; give what will be served."""
        if self._target == AUTO and self._example is not None:
            self._choose_padding(self._example)  # timed before the reference takes the cores
        reference = self._reference()
        observers = [self._steps, *self._observers(reference)]
        optimized, self._records = run_passes(
            self._module, self._passes, observers, context=self._context
        )
        self._has_attention = any("Attention" in node.op_type for node in optimized.nodes())
        self._steps.step(f"lower for {self._target}")
        started = time.perf_counter()
        lowered = self._lower(optimized)
        if self._recorder is not None:
            seconds = time.perf_counter() - started
            self._recorder.lowered(optimized, lowered, seconds, self.compiled)
        if self._snapshots is not None:
            self._snapshots.lowered(lowered)
        self._lowered_ops = Counter(node.op_type for node in lowered.graph)
        self._steps.step("verify")
        if reference is not None:
            self._verify(reference, optimized, lowered)
        return lowered

    def _choose_padding(self, example: Mapping[str, Array]) -> None:
        self._steps.detail("with padding, and without")
        choice = choose_padding(self._module, self._passes, example, self._settings, self._session)
        self._passes = choice.passes
        self._choices += [choice.reason] if choice.reason is not None else []

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
        return Reference(self._original, cases, self._session).begin()

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
