"""What runs the ONNX project's tests, and how their results are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
from onnx import numpy_helper

_ERRORS_ONLY = 4

Feed = dict[str, Any]
Run = Callable[[bytes, Feed], list[Any]]


def _in_onnxruntime(model: bytes, feed: Feed) -> list[Any]:
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


def _in_evaluator(model: bytes, feed: Feed) -> list[Any]:
    evaluator = onnx.reference.ReferenceEvaluator(onnx.ModelProto.FromString(model))
    return list(evaluator.run(None, {name: _plain_tensor(value) for name, value in feed.items()}))


ONNX_RUNTIME = "ONNX Runtime"
RUNTIMES: Mapping[str, Run] = {ONNX_RUNTIME: _in_onnxruntime, "onnx's evaluator": _in_evaluator}
"""What runs a test, the first that passes it itself."""


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


def difference_of(expected: list[Any], got: list[Any]) -> str | None:
    """Where two lists of results differ by more than the backend tests allow, or None."""
    for index, (one, other) in enumerate(zip(expected, got, strict=True)):
        try:
            _check_close(one, other)
        except AssertionError as error:
            return f"output {index}: {one_line(error)}"
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


def one_line(error: BaseException) -> str:
    """An error's message, short."""
    return " ".join(str(error).split())[:200] or type(error).__name__
