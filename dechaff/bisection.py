"""``bisect``: the pass and the single rewrite that make a model wrong, and a small repro of it."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from typing import Any, NoReturn

from dechaff.backends import lower
from dechaff.ir import Module, VerificationFailedError
from dechaff.passes import Pass, PassList, parse_pass_list, run_passes

from .fault_search import Fault, find_fault
from .input_generation import InputCase, generate_inputs
from .judges import CommandJudge, Judge, NumbersJudge
from .model_import import batches_of, example_cases, import_model
from .reduction import Reduced, reduce_fault
from .reference import Reference
from .repro_folder import check_repro_folder, write_repro


@dataclasses.dataclass(frozen=True)
class Bisection:
    """What a search for a fault found.

    Attributes:
        source: the model.
        fault: the first rewrite after which the model is wrong.
        reduced: two small models that differ by it; None if the pass fails outright.
        command: the command that repeats the search.
    """

    source: str
    fault: Fault
    reduced: Reduced | None
    command: str

    def fail(self) -> NoReturn:
        """Raise what was found as an error.

        Raises:
            VerificationFailedError: always.
        """
        raise VerificationFailedError(
            f"{self.source}: at fault is {self.fault}: {self.fault.problem}; "
            f"found in {self.fault.checks} checks"
        )


def bisect(
    model: Any,
    passes: PassList = "default",
    *,
    inputs: Any = None,
    check: str | None = None,
    target: str = "cpu",
    output: str | os.PathLike[str] | None = None,
) -> Bisection | None:
    """Find the pass, and the rewrite within it, that makes a model wrong.

    Passes are searched by halving, then the rewrites of the one found; then the model is cut down
    to the neighbourhood in which the fault shows.

    Args:
        model: what :func:`dechaff.optimize` takes.
        passes: a pass list.
        inputs: what the model is called with, once or, as an iterable, several times; or the path
            of an ``.npz`` file; generated from its signature if None.
        check: a command that fails where ``{after}`` is wrong, ``{before}`` being right; both
            stand for ONNX files, and ``{inputs}`` for an ``.npz`` file. None: outputs are compared.
        target: what the result is lowered for; checked where no pass is at fault.
        output: a folder to write the repro to, which must not exist or be empty; None writes none.

    Returns:
        What was found, or None if the model is right after all passes.

    Raises:
        ModelRejectedError: the model cannot be read, or runs on none of the inputs.
        InputRejectedError: the inputs do not fit the model.
        UsageError: an unknown pass, a folder with files in it, or a check that fails on the
            unchanged model too.
    """
    if output is not None:
        check_repro_folder(output)
    chosen = parse_pass_list(passes)
    batches = batches_of(inputs)
    original = import_model(model, *batches[:1])
    cases = example_cases(original, batches) or generate_inputs(original)
    judge = _judge(original, cases, check)
    fault = find_fault(original, chosen, judge)
    if fault is None:
        fault = _lowering_fault(original, chosen, target, judge)
    if fault is None:
        return None
    reduced = None
    if fault.after is not None:
        case = _failing_case(fault.before, fault.after, cases, judge)
        reduced = reduce_fault(fault.before, fault.after, case, judge)
    command = bisect_command(original.source, passes, check)
    found = Bisection(original.source, fault, reduced, command)
    if output is not None:
        write_repro(output, found.source, found.fault, found.reduced, found.command)
    return found


def _judge(original: Module, cases: Sequence[InputCase], check: str | None) -> Judge:
    if check is not None:
        return CommandJudge(check, original, cases[0])
    reference = Reference(original, cases)
    reference.require()
    return NumbersJudge(reference)


def _lowering_fault(
    original: Module, passes: Sequence[Pass], target: str, judge: Judge
) -> Fault | None:
    before, _ = run_passes(original.clone(), passes)
    after = lower(before, target)
    problem = judge.judge(after)
    if problem is None:
        return None
    return Fault(f"the lowering for target {target}", None, 0, None, problem, 2, before, after)


def _failing_case(
    before: Module, after: Module, cases: Sequence[InputCase], judge: Judge
) -> InputCase:
    """The first case in which the two differ."""
    for case in cases:
        if judge.judge_pair(before, after, case) is not None:
            return case
    return cases[0]


def bisect_command(source: str, passes: PassList, check: str | None = None) -> str:
    """The command that searches for the fault; passes that have no name on it are left out."""
    items = [passes] if isinstance(passes, str) else [str(item) for item in passes]
    words = ["dechaff", "bisect", source, "--passes", ",".join(items)]
    words += ["--check", check] if check is not None else []
    return shlex.join([*words, "-o", "repro"])
