"""``python -m benchmarks.conformance``: dechaff leaves every operator of ONNX intact.

Each node and model test of the ``onnx`` package's backend test data that ONNX Runtime itself passes
goes through import and export, with no pass and with the default passes, and must then give the
results that ONNX Runtime gives for the original.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import logging
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import dechaff
from benchmarks.measure import progress_bar
from dechaff.frontend.opset_upgrade import OLDEST_OPSET

PASSES = ("none", "default")
TARGETS = ("cpu", "portable")
_FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
_ERRORS_ONLY = 4
_DONE, _WRONG = 0, 1

Feed = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one test.

    Attributes:
        name: of the test, with its kind in front.
        standing: ``kept``, ``harmed``, ``too old`` (an opset that dechaff refuses), or ``not run``
            (ONNX Runtime does not pass it, or its Python interface cannot carry its types).
        reason: what differs, or why it was not run.
    """

    name: str
    standing: str
    reason: str = ""


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
    opset = _opset(test.model)
    if opset < OLDEST_OPSET:
        return Verdict(test.name, "too old", f"opset {opset}")
    weights = {tensor.name for tensor in test.model.graph.initializer}
    names = [info.name for info in test.model.graph.input if info.name not in weights]
    feeds = [dict(zip(names, inputs, strict=False)) for inputs, _ in test.data_sets]
    try:
        wanted = [_run(test.model.SerializeToString(), feed) for feed in feeds]
    except Exception as error:  # whatever the runtime cannot do is no matter of ours
        return Verdict(test.name, "not run", _one_line(error))
    for (_, expected), got in zip(test.data_sets, wanted, strict=True):
        difference = _difference(list(expected), got)
        if difference is not None:
            return Verdict(test.name, "not run", f"ONNX Runtime differs itself: {difference}")
    for passes in PASSES:
        for target in TARGETS:
            problem = _after(test.model, passes, target, feeds, wanted)
            if problem is not None:
                return Verdict(test.name, "harmed", f"passes {passes} for {target}: {problem}")
    return Verdict(test.name, "kept")


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def _after(
    model: onnx.ModelProto, passes: str, target: str, feeds: list[Feed], wanted: list[list[Any]]
) -> str | None:
    """What differs after import and export, or None."""
    with tempfile.TemporaryDirectory(prefix="dechaff-conformance-") as folder:
        exported = pathlib.Path(folder) / "model.onnx"
        try:
            optimized = dechaff.optimize(
                model, passes=passes, target=target, verify="off", progress=False
            )
            optimized.save(exported)
            results = [_run(exported.read_bytes(), feed) for feed in feeds]
        except Exception as error:  # any failure of the round trip is a finding
            return _one_line(error)
    differences = (_difference(a, b) for a, b in zip(wanted, results, strict=True))
    return next((text for text in differences if text is not None), None)


def _run(model: bytes, feed: Feed) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    served = _with_readable_outputs(onnx.ModelProto.FromString(model)).SerializeToString()
    session = onnxruntime.InferenceSession(served, options, providers=["CPUExecutionProvider"])
    feed = {name: _plain_tensor(value) for name, value in feed.items()}
    if not any(_is_narrow(value) for value in feed.values()):
        results: list[Any] = session.run(None, feed)
        return results
    # Types that numpy lacks pass as bits; there is no other way through this interface.
    given = {name: _ort_value(value) for name, value in feed.items()}
    names = [info.name for info in session.get_outputs()]
    return [value.numpy() for value in session.run_with_ort_values(names, given)]


def _with_readable_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Outputs of types that numpy lacks are cast to float, in the graph itself."""
    for index, output in enumerate(model.graph.output):
        kind = output.type.tensor_type
        if not output.type.HasField("tensor_type") or kind.elem_type < onnx.TensorProto.BFLOAT16:
            continue
        name = f"{output.name}_readable_{index}"
        cast = onnx.helper.make_node("Cast", [output.name], [name], to=onnx.TensorProto.FLOAT)
        model.graph.node.append(cast)
        output.name, kind.elem_type = name, onnx.TensorProto.FLOAT
    return model


def _plain_tensor(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        value = numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _is_narrow(value: Any) -> bool:
    return isinstance(value, np.ndarray) and not _is_numpy_type(value)


def _is_numpy_type(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.isbuiltin == 1 or array.dtype.kind in "OUS"


def _ort_value(value: Any) -> Any:
    if not _is_narrow(value):
        return onnxruntime.OrtValue.ortvalue_from_numpy(value)
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    bits = value.view(np.uint16 if value.dtype.itemsize == 2 else np.uint8)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind)


def _difference(expected: list[Any], got: list[Any]) -> str | None:
    """Where two lists of results differ by more than the backend tests allow, or None."""
    for index, (one, other) in enumerate(zip(expected, got, strict=True)):
        try:
            _check_close(one, other)
        except AssertionError as error:
            return f"output {index}: {_one_line(error)}"
    return None


def _check_close(expected: Any, got: Any) -> None:
    if expected is None or got is None:
        assert expected is got, f"{got!r} in place of {expected!r}"
    elif isinstance(expected, (list, tuple)):
        assert len(expected) == len(got), f"{len(got)} elements in place of {len(expected)}"
        for one, other in zip(expected, got, strict=True):
            _check_close(one, other)
    else:
        _check_arrays(_plain(expected), _plain(got))


def _plain(value: Any) -> np.ndarray[Any, Any]:
    array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    array = np.asarray(array)
    return array if _is_numpy_type(array) else array.astype(np.float32)


def _check_arrays(expected: np.ndarray[Any, Any], got: np.ndarray[Any, Any]) -> None:
    assert expected.shape == got.shape, f"shape {got.shape} in place of {expected.shape}"
    if expected.dtype.kind in "OUS" or got.dtype.kind in "OUS":
        np.testing.assert_array_equal(expected.astype(str), got.astype(str))
    else:
        assert expected.dtype == got.dtype, f"dtype {got.dtype} in place of {expected.dtype}"
        # The tolerances of the backend tests themselves.
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-7)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all tests, print the counts and each test that was harmed.

    Returns:
        0; 1 if a test is harmed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="tests whose name has this")
    parser.add_argument("--not-run", action="store_true", help="list tests that were not run")
    options = parser.parse_args(arguments)
    chosen = [test for test in backend_tests() if options.only in test.name]
    logging.disable(logging.WARNING)  # of the many models that are odd on purpose
    verdicts = []
    with progress_bar(len(chosen), "conformance") as advance:
        for test in chosen:
            advance(test.name)
            verdicts.append(check(test))
    shown = ("harmed", "not run") if options.not_run else ("harmed",)
    for verdict in verdicts:
        if verdict.standing in shown:
            print(f"{verdict.standing}: {verdict.name}: {verdict.reason}")
    counts = collections.Counter(verdict.standing for verdict in verdicts)
    print(
        f"{len(verdicts)} tests: {counts['kept']} kept, {counts['harmed']} harmed; "
        f"{counts['too old']} of an opset before {OLDEST_OPSET}, which dechaff refuses; "
        f"{counts['not run']} not run, as ONNX Runtime does not pass them itself"
    )
    return _WRONG if counts["harmed"] else _DONE


if __name__ == "__main__":
    sys.exit(main())
