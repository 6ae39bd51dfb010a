"""Runs on numbers: the original as the reference, and what is compared with it."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from dechaff.backends import RunningModel, RunOverdueError, Session, SessionSettings, start_session
from dechaff.ir import (
    CrashedError,
    DechaffError,
    ModelRejectedError,
    Module,
    ValidPositions,
    VerificationFailedError,
    Vocabulary,
    constant_value,
)

from .arrays import Array, Arrays
from .input_generation import InputCase, few_cases
from .isolation import limited_memory


@dataclasses.dataclass
class _Results:
    """What the original gave."""

    cases: list[InputCase] = dataclasses.field(default_factory=list)
    outputs: list[Arrays] = dataclasses.field(default_factory=list)
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    reason: str | None = None
    overdue: bool = False


class _Runs:
    """The original's session, and what it gave for each case; threads take turns."""

    def __init__(self, module: Module, settings: SessionSettings | None) -> None:
        self._module = module
        self._settings = settings
        self._session: Session | None = None
        self._overdue: RunOverdueError | None = None
        self._known: dict[int, tuple[InputCase, Arrays]] = {}
        self._turn = threading.Lock()

    def load(self) -> Session:
        """The session, loaded once."""
        with self._turn:
            if self._session is None:
                self._session = Session(
                    self._module, graph_optimizations=False, settings=self._settings
                )
            return self._session

    def outputs(self, case: InputCase) -> Arrays:
        """The outputs for a case, which runs once; none runs after one that did not end."""
        session = self.load()
        with self._turn:
            if self._overdue is not None:
                raise self._overdue
            try:
                if id(case) not in self._known:
                    self._known[id(case)] = case, session.run(case.inputs)
            except RunOverdueError as error:
                self._overdue = error
                raise
            return self._known[id(case)][1]


class Reference:
    """The original module's results on every case it runs, without runtime optimizations.

    It runs when its results are first asked for, or beside other work once that is begun.

    Attributes:
        module: the original.
        given: all cases.
        settings: threads, affinity and memory it runs with, and what is compared with it.
    """

    def __init__(
        self, module: Module, cases: Sequence[InputCase], settings: SessionSettings | None = None
    ) -> None:
        self.module = module
        self.given = list(cases)
        self.settings = settings
        self._vocabulary: Vocabulary | None = None
        self._masks: dict[str, list[Array]] = {}
        self._runs = _Runs(module, settings)
        self._begun: Future[_Results] | None = None

    def begin(self) -> Reference:
        """Run all cases beside what this thread goes on to do, such as passes, which take one core.

        Returns:
            This reference.
        """
        begun: Future[_Results] = Future()
        _map_weights(self.module)

        def work() -> None:
            try:
                begun.set_result(self._run())
            except BaseException as error:  # who asks for the results gets it
                begun.set_exception(error)

        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:  # too little memory for a thread: they run when they are asked for
            return self
        self._begun = begun
        return self

    @functools.cached_property
    def few(self) -> Reference:
        """The same on as few tokens as cover all ways of padding, or on all if that cannot be."""
        chosen = [self.given[index] for index in few_cases(self.given)]
        if len(chosen) == len(self.given):
            return self
        few = Reference(self.module, chosen, self.settings)
        few._runs = self._runs
        return few if few.reason is None else self

    def with_vocabulary(self, vocabulary: Vocabulary | None) -> Reference:
        """The same for a model with this vocabulary: on tokens that it kept, and their columns."""
        if vocabulary is None:
            return self
        cases = [InputCase(c.name, vocabulary.inputs_of_kept(c.inputs)) for c in self.given]
        kept = Reference(self.module, cases, self.settings)
        kept._vocabulary = vocabulary
        return kept

    @property
    def cases(self) -> list[InputCase]:
        """The cases that the original runs."""
        return self._results.cases

    @property
    def outputs(self) -> list[Arrays]:
        """The original's outputs, by name, for each of these."""
        outputs, vocabulary = self._results.outputs, self._vocabulary
        return outputs if vocabulary is None else [vocabulary.columns(each) for each in outputs]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """The other cases, with the reason."""
        return self._results.skipped

    @property
    def reason(self) -> str | None:
        """Why no case ran, or not all could be tried; else None."""
        return self._results.reason

    @functools.cached_property
    def _results(self) -> _Results:
        return self._run() if self._begun is None else self._begun.result()

    def _run(self) -> _Results:
        found = _Results()
        try:
            self._runs.load()
        except DechaffError as error:
            found.reason = f"the original does not load in ONNX Runtime: {error}"
            return found
        except MemoryError as error:
            found.reason = _no_memory(error)
            return found
        for case in self.given:
            try:
                found.outputs.append(self._runs.outputs(case))
                found.cases.append(case)
            except RunOverdueError as error:
                found.reason = f"case {case.name!r} of the original: {error}"
                found.overdue = True
                return found  # the next case would not end either
            except DechaffError as error:
                found.skipped.append((case.name, str(error)))
            except MemoryError as error:
                found.skipped.append((case.name, _no_memory(error)))
        if not found.cases:
            first = f": {found.skipped[0][1]}" if found.skipped else ""
            found.reason = (
                f"the original runs on none of the inputs{first}; give example_inputs that fit it"
            )
        return found

    def require(self) -> None:
        """Do nothing if cases ran.

        Raises:
            ModelRejectedError: the original runs on none.
            CrashedError: it takes too long.
        """
        if self._results.overdue:
            raise CrashedError(f"{self.reason}; give inputs on which it ends")
        if self.reason is not None:
            raise ModelRejectedError(f"{self.module.source}: {self.reason}")

    def masks(self, positions: Sequence[ValidPositions]) -> list[dict[str, Array]]:
        """For each case, the mask [B, S] or [B] of each output that has valid positions.

        Raises:
            VerificationFailedError: the original has no such value.
        """
        for item in positions:
            if item.mask not in self._masks:
                self._masks[item.mask] = self._fetch(item.mask)
        return [
            {item.output: item.meaningful(self._masks[item.mask][index]) for item in positions}
            for index in range(len(self.cases))
        ]

    def _fetch(self, name: str) -> list[Array]:
        """A value of the original, which need not be a graph output, in every case."""
        if all(name in case.inputs for case in self.cases):
            return [case.inputs[name] for case in self.cases]
        if all(name in outputs for outputs in self.outputs):
            return [outputs[name] for outputs in self.outputs]
        probe = self.module.clone()
        values = {value.name or "": value for node in probe.graph for value in node.outputs}
        values.update(probe.graph.initializers)
        if name not in values:
            raise VerificationFailedError(
                f"{self.module.source}: the mask {name!r} of valid positions is no value of the "
                "original graph, so they cannot be checked"
            )
        constant = constant_value(values[name])
        if constant is not None:
            return [constant.numpy()] * len(self.cases)
        probe.graph.outputs.clear()
        probe.graph.outputs.append(values[name])
        common_passes.RemoveUnusedNodesPass()(probe.model)
        session = Session(probe, graph_optimizations=False, settings=self.settings)
        return [session.run(case.inputs)[name] for case in self.cases]


def _map_weights(module: Module) -> None:
    """Open the files of weights, which no two threads may do at once: passes read them too."""
    for value in module.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value.numpy()


def _no_memory(error: MemoryError) -> str:
    """Why a case does not run; under a limit on memory it is the limit that must be told.

    Raises:
        MemoryError: memory is limited, so that more of it may be had.
    """
    if limited_memory() is not None:
        raise error
    return f"out of memory: {error}"


def run_cases(
    module: Module,
    cases: Sequence[InputCase],
    *,
    served: bool,
    settings: SessionSettings | None = None,
    compiled: RunningModel | None = None,
) -> list[Arrays]:
    """Outputs of a module on every case.

    Args:
        module: the module.
        cases: the inputs.
        served: run as it will be served, runtime optimizations included; else as a reference.
        settings: threads, affinity and memory; the defaults if None.
        compiled: generated code that serves the module in place of a runtime.

    Raises:
        VerificationFailedError: the module does not load or run where the original does.
        MemoryError: there is too little memory to run it.
    """
    try:
        session: RunningModel
        if compiled is not None:
            session = compiled
        elif served:
            session = start_session(module, settings, on_trial=True)
        else:
            session = Session(module, graph_optimizations=False, settings=settings)
        return [session.run(case.inputs) for case in cases]
    except DechaffError as error:
        raise VerificationFailedError(
            f"the optimized model does not run where the original does: {error}"
        ) from error
