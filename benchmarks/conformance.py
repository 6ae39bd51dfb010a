"""``python -m benchmarks.conformance``: dechaff leaves every operator of ONNX intact.

Each node and model test of the ``onnx`` package's backend test data that ONNX Runtime itself passes
goes through import and export, with no pass and with the default passes, and must then give the
results that ONNX Runtime gives for the original. What ONNX Runtime has no kernel for runs in the
``onnx`` package's own evaluator, before and after.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import logging
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import dechaff
from benchmarks.conformance_runtimes import (
    ONNX_RUNTIME,
    RUNTIMES,
    Feed,
    Run,
    difference_of,
    one_line,
)
from benchmarks.measure import progress_bar
from dechaff.frontend.opset_upgrade import OLDEST_OPSET

PASSES = ("none", "default")
TARGETS = ("cpu", "portable")
_FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
_DONE, _WRONG = 0, 1


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one test.

    Attributes:
        name: of the test, with its kind in front.
        standing: ``kept``, ``harmed``, ``too old`` (an opset that dechaff refuses, and the
            ``onnx`` package does not upgrade), or ``not run`` (nothing here passes it itself).
        reason: what differs, or why it was not run.
        runtime: what ran it; empty if nothing did.
    """

    name: str
    standing: str
    reason: str = ""
    runtime: str = ""


@dataclasses.dataclass(frozen=True)
class BackendTest:
    """A model with inputs and the outputs that the ONNX project expects of it."""

    name: str
    model: onnx.ModelProto
    data_sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]


def backend_tests() -> list[BackendTest]:
    """All tests that come with the ``onnx`` package, in a fixed order."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        nodes = sorted(load_model_tests(kind="node"), key=lambda case: case.name)
    tests = [
        BackendTest(f"node/{case.name}", case.model, case.data_sets or ())
        for case in nodes
        if case.model is not None
    ]
    for kind in _FOLDERS:
        for case in sorted(load_model_tests(kind=kind), key=lambda case: case.name):
            folder = pathlib.Path(case.model_dir or "")
            tests.append(_from_folder(f"{kind}/{case.name}", folder))
    return tests


def _from_folder(name: str, folder: pathlib.Path) -> BackendTest:
    model = onnx.load(folder / "model.onnx")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in weights]
    data_sets = [
        (_read_values(inputs, data, "input"), _read_values(model.graph.output, data, "output"))
        for data in sorted(folder.glob("test_data_set_*"))
    ]
    return BackendTest(name, model, data_sets)


def _read_values(
    infos: Sequence[onnx.ValueInfoProto], folder: pathlib.Path, role: str
) -> list[Any]:
    paths = [folder / f"{role}_{index}.pb" for index in range(len(infos))]
    return [
        _read_value(info, path) for info, path in zip(infos, paths, strict=True) if path.exists()
    ]


def _read_value(info: onnx.ValueInfoProto, path: pathlib.Path) -> Any:
    content, kind = path.read_bytes(), info.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def check(test: BackendTest) -> Verdict:
    """Run one test as it is, and after import and export."""
    if _opset(test.model) < OLDEST_OPSET:
        upgraded = _upgraded(test.model)
        if upgraded is None:
            return Verdict(test.name, "too old", f"opset {_opset(test.model)}")
        test = dataclasses.replace(test, model=upgraded)
    weights = {tensor.name for tensor in test.model.graph.initializer}
    names = [info.name for info in test.model.graph.input if info.name not in weights]
    feeds = [dict(zip(names, inputs, strict=False)) for inputs, _ in test.data_sets]
    reasons = []
    for runtime, run in RUNTIMES.items():
        wanted, reason = _passes_itself(test, feeds, run)
        if wanted is not None:
            return _compare(test, feeds, wanted, runtime)
        reasons.append(f"{runtime}: {reason}")
    return Verdict(test.name, "not run", "; ".join(reasons))


def _passes_itself(
    test: BackendTest, feeds: list[Feed], run: Run
) -> tuple[list[list[Any]] | None, str]:
    """The results of the original, or None and why it does not give those expected."""
    try:
        wanted = [run(test.model.SerializeToString(), feed) for feed in feeds]
    except Exception as error:  # whatever a runtime cannot do is no matter of ours
        return None, one_line(error)
    for (_, expected), got in zip(test.data_sets, wanted, strict=True):
        difference = difference_of(list(expected), got)
        if difference is not None:
            return None, f"differs itself: {difference}"
    return wanted, ""


def _compare(
    test: BackendTest, feeds: list[Feed], wanted: list[list[Any]], runtime: str
) -> Verdict:
    for passes in PASSES:
        for target in TARGETS if runtime == ONNX_RUNTIME else TARGETS[-1:]:
            problem = _after(test.model, passes, target, feeds, wanted, RUNTIMES[runtime])
            if problem is not None:
                reason = f"passes {passes} for {target}: {problem}"
                return Verdict(test.name, "harmed", reason, runtime)
    return Verdict(test.name, "kept", runtime=runtime)


def _upgraded(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model at the oldest opset that dechaff reads, if the ``onnx`` package can write it so."""
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception:  # the converter lacks many operators, and says so in many ways
        return None


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def _after(
    model: onnx.ModelProto,
    passes: str,
    target: str,
    feeds: list[Feed],
    wanted: list[list[Any]],
    run: Run,
) -> str | None:
    """What differs after import and export, or None."""
    with tempfile.TemporaryDirectory(prefix="dechaff-conformance-") as folder:
        exported = pathlib.Path(folder) / "model.onnx"
        try:
            optimized = dechaff.optimize(
                model, passes=passes, target=target, verify="off", progress=False
            )
            optimized.save(exported)
            results = [run(exported.read_bytes(), feed) for feed in feeds]
        except Exception as error:  # any failure of the round trip is a finding
            return one_line(error)
    differences = (difference_of(a, b) for a, b in zip(wanted, results, strict=True))
    return next((text for text in differences if text is not None), None)


def _read(path: pathlib.Path | None) -> dict[str, Verdict]:
    """What an earlier run found, by the tests' names."""
    if path is None or not path.exists():
        return {}
    verdicts = [Verdict(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    return {verdict.name: verdict for verdict in verdicts}


def _append(path: pathlib.Path | None, verdict: Verdict) -> None:
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(verdict)) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all tests, print the counts and each test that was harmed.

    Returns:
        0; 1 if a test is harmed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="tests whose name has this")
    parser.add_argument("--not-run", action="store_true", help="list tests that were not run")
    parser.add_argument(
        "--results", type=pathlib.Path, metavar="FILE", help="kept between runs, to go on from"
    )
    options = parser.parse_args(arguments)
    chosen = [test for test in backend_tests() if options.only in test.name]
    logging.disable(logging.WARNING)  # of the many models that are odd on purpose
    known = _read(options.results)
    with progress_bar(len(chosen), "conformance") as advance:
        for test in chosen:
            advance(test.name)
            if test.name not in known:
                known[test.name] = check(test)
                _append(options.results, known[test.name])
    verdicts = [known[test.name] for test in chosen]
    shown = ("harmed", "not run") if options.not_run else ("harmed",)
    for verdict in verdicts:
        if verdict.standing in shown:
            print(f"{verdict.standing}: {verdict.name}: {verdict.reason}")
    counts = collections.Counter(verdict.standing for verdict in verdicts)
    ran = collections.Counter(verdict.runtime for verdict in verdicts)
    where = ", ".join(f"{ran[runtime]} in {runtime}" for runtime in RUNTIMES)
    print(
        f"{len(verdicts)} tests: {counts['kept']} kept, {counts['harmed']} harmed ({where}); "
        f"{counts['too old']} of an opset before {OLDEST_OPSET}, which dechaff refuses and the "
        f"onnx package does not upgrade; {counts['not run']} not run, as nothing here passes them"
    )
    return _WRONG if counts["harmed"] else _DONE


if __name__ == "__main__":
    sys.exit(main())
