"""Older opsets brought to the working opset, each case with the same numbers before and after."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from dechaff.frontend import from_onnx
from dechaff.ir import ModelRejectedError
from tests.model_runner import Array, random_inputs, run_module

CASES: dict[str, tuple[int, str, str]] = {
    "softmax over all axes from its default": (11, "y = Softmax (x)", "[B,S,4]"),
    "softmax from the first axis": (11, "y = Softmax <axis = 0> (x)", "[B,S,4]"),
    "softmax from the second axis from the end": (12, "y = Softmax <axis = -2> (x)", "[B,S,4]"),
    "softmax over the last axis": (11, "y = Softmax <axis = 2> (x)", "[B,S,4]"),
    "softmax over the last axis, from the end": (11, "y = Softmax <axis = -1> (x)", "[B,S,4]"),
    "softmax of one axis": (13, "y = Softmax <axis = 1> (x)", "[B,S,4]"),
    "softmax inside": (11, "a = Neg (x)\n b = Softmax <axis = 1> (a)\n y = Exp (b)", "[B,S,4]"),
    "log softmax": (11, "y = LogSoftmax <axis = 1> (x)", "[B,S,4]"),
    "hardmax": (11, "y = Hardmax <axis = 1> (x)", "[B,S,4]"),
    "unsqueeze": (11, "y = Unsqueeze <axes = [0, 4]> (x)", "[M,N,O,P,Q]"),
    "squeeze": (11, "a = Unsqueeze <axes = [1]> (x)\n y = Squeeze <axes = [1]> (a)", "[B,S,4]"),
    "squeeze of all ones": (11, "a = Unsqueeze <axes = [1]> (x)\n y = Squeeze (a)", "[B,S,4]"),
    "sum": (11, "y = ReduceSum <axes = [1], keepdims = 0> (x)", "[B,4]"),
    "sum of everything": (12, "y = ReduceSum <keepdims = 0> (x)", "[]"),
    "mean": (17, "y = ReduceMean <axes = [-1]> (x)", "[B,S,1]"),
    "maximum": (11, "y = ReduceMax <axes = [0, 2]> (x)", "[M,N,O]"),
    "norm": (14, "y = ReduceL2 <axes = [2], keepdims = 0> (x)", "[B,S]"),
    "equal parts": (11, "a, b = Split <axis = 2> (x)\n y = Sub (a, b)", "[B,S,2]"),
    "given parts": (
        11,
        "a, b = Split <axis = 2, split = [1, 3]> (x)\n y = Mul (a, b)",
        "[B,S,3]",
    ),
    "equal parts after 13": (13, "a, b = Split <axis = 2> (x)\n y = Sub (a, b)", "[B,S,2]"),
    "dropout": (11, "y = Dropout <ratio = 0.7> (x)", "[B,S,4]"),
    "batch normalization": (
        11,
        "a = Transpose <perm = [0, 2, 1]> (x)\n y = BatchNormalization (a, w, w, w, w)",
        "[B,4,S]",
    ),
    "resize by scales": (
        11,
        'y = Resize <mode = "nearest"> (x, none, scales)',
        "[M,N,O]",
    ),
    "a branch": (
        11,
        """s = ReduceSum <keepdims = 0> (x)
        zero = Constant <value = float {0}> ()
        c = Greater (s, zero)
        y = If (c) <
            then_branch = yes () => (float[M] p) { p = ReduceSum <axes = [0, 1], keepdims=0> (x) },
            else_branch = no () => (float[M] q) { q = ReduceMax <axes = [0, 1], keepdims=0> (x) }
        >""",
        "[N]",
    ),
    "group normalization": (
        18,
        """a = Transpose <perm = [0, 2, 1]> (x)
        y = GroupNormalization <num_groups = 2> (a, w2, w2)""",
        "[B,4,S]",
    ),
}


def model(opset: int, body: str, result: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        g (float[B, S, 4] x) => (float{result} y)
        <float[4] w = {{1, 2, 3, 4}}, float[2] w2 = {{1, 2}}, float[0] none = {{}},
         float[3] scales = {{1, 2, 1}}>
        {{ {body} }}
        """
    )


def run_proto(proto: onnx.ModelProto, inputs: dict[str, Array]) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return np.asarray(session.run(["y"], inputs)[0])


@pytest.mark.parametrize("name", CASES)
def test_an_older_model_gives_the_same_numbers(name: str) -> None:
    proto = model(*CASES[name])
    module = from_onnx(proto)
    assert module.opset == 23
    inputs = random_inputs(module)
    np.testing.assert_allclose(
        run_module(module, inputs)["y"], run_proto(proto, inputs), rtol=1e-6, atol=1e-6
    )


def test_softmax_over_the_last_axis_stays_one_operator() -> None:
    for axis in (2, -1):
        module = from_onnx(model(11, f"y = Softmax <axis = {axis}> (x)", "[B,S,4]"))
        assert [node.op_type for node in module.nodes()] == ["Softmax"]


def test_functions_with_attributes_are_converted_where_they_are_called() -> None:
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 11, "local" : 1]>
        g (float[B, S, 4] x) => (float[B, S, 4] y) { y = local.normalize <axis = 1> (x) }
        <domain: "local", opset_import: ["" : 11]>
        normalize <axis> (x) => (y) { y = Softmax <axis: int = @axis> (x) }
        """
    )
    module = from_onnx(proto)
    inputs = random_inputs(module)
    np.testing.assert_allclose(
        run_module(module, inputs)["y"], run_proto(proto, inputs), rtol=1e-6, atol=1e-6
    )


def test_a_function_of_another_opset_than_its_model_is_converted_by_its_own() -> None:
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 13, "local" : 1]>
        g (float[B, S, 4] x) => (float[B, S, 4] y) {
            a = Softmax <axis = 1> (x)
            b = local.old (x)
            y = Add (a, b)
        }
        <domain: "local", opset_import: ["" : 11]>
        old (x) => (y) { y = Softmax <axis = 1> (x) }
        """
    )
    module = from_onnx(proto)
    x = random_inputs(module)["x"]
    flat = np.exp(x.reshape(len(x), -1))
    old = (flat / flat.sum(1, keepdims=True)).reshape(x.shape)
    new = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(run_module(module, {"x": x})["y"], old + new, rtol=1e-5)


def test_functions_of_a_model_that_needs_no_conversion_stay() -> None:
    proto = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 23, "local" : 1]>
        g (float[B] x) => (float[B] y) { y = local.f (x) }
        <domain: "local", opset_import: ["" : 23]>
        f (x) => (y) { y = Neg (x) }
        """
    )
    assert [node.op_type for node in from_onnx(proto).nodes()] == ["f"]


def test_what_newer_opsets_cannot_say_is_listed_at_once() -> None:
    body = """
        r = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, none, scales)
        t = Transpose <perm = [0, 2, 1]> (x)
        y, m, v, a, b = BatchNormalization (t, w, w, w, w)
        z = Add (m, v)
    """
    proto = model(11, body, "[B,4,S]")
    proto.graph.output.append(onnx.helper.make_tensor_value_info("r", 1, None))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    with pytest.raises(ModelRejectedError) as caught:
        from_onnx(proto)
    message = str(caught.value)
    assert "2 operation(s) cannot be converted" in message
    assert "Resize with tf_half_pixel_for_nn" in message
    assert "BatchNormalization in training mode" in message


def test_group_normalization_of_unknown_channels_is_refused() -> None:
    proto = model(18, "y = GroupNormalization <num_groups = 2> (x, w2, w2)", "[B,S,4]")
    with pytest.raises(ModelRejectedError, match="unknown number of channels"):
        from_onnx(proto)
