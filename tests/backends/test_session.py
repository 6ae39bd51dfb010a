from __future__ import annotations

import pathlib
import re
import sys

import numpy as np
import onnx_ir as ir
import pytest

from dechaff.backends import RunOverdueError, Session
from dechaff.backends.onnxruntime import run_limits
from dechaff.backends.onnxruntime.kernels import has_kernel
from dechaff.backends.onnxruntime.run_limits import RunLimit
from dechaff.backends.onnxruntime.session import RuntimeFailedError
from dechaff.backends.onnxruntime.threads import usable_cores
from dechaff.ir import Module, parse

HEADER = '<ir_version: 10, opset_import: ["" : 23]>\n'
ADD = (
    HEADER + "g (float[N] x, float[N] z) => (float[N] y, float[N] w) {y = Add(x, z) w = Mul(x, z)}"
)


def with_weight(size: int) -> Module:
    module = parse(
        HEADER + f"g (float[N,{size}] x, float[{size},2] w) => (float[N,2] y) {{y = MatMul (x, w)}}"
    )
    weight = module.graph.inputs.pop()
    array = np.random.default_rng(0).standard_normal((size, 2)).astype(np.float32)
    weight.const_value = ir.tensor(array, name="w")
    module.graph.register_initializer(weight)
    return module


def test_outputs_come_by_name_and_may_be_chosen() -> None:
    session = Session(parse(ADD))
    inputs = {"x": np.array([1, 2], np.float32), "z": np.array([3, 4], np.float32)}
    assert set(session.run(inputs)) == {"y", "w"}
    assert list(session.run(inputs, ["w"])) == ["w"]
    assert session.input_names == ["x", "z"]
    assert session.output_names == ["y", "w"]


@pytest.mark.parametrize("size", [4, 4096])
def test_small_and_shared_weights_give_the_same(size: int) -> None:
    module = with_weight(size)
    weight = module.graph.initializers["w"].const_value
    assert weight is not None
    x = np.ones((3, size), np.float32)
    found = Session(module).run({"x": x})["y"]
    np.testing.assert_allclose(found, x @ weight.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [4, 4096])
def test_weights_of_a_file_are_found_from_any_folder(size: int, tmp_path: pathlib.Path) -> None:
    module = with_weight(size)
    x = np.ones((3, size), np.float32)
    expected = Session(module).run({"x": x})["y"]
    ir.save(module.model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    module.model = ir.load(tmp_path / "m.onnx")
    assert isinstance(module.graph.initializers["w"].const_value, ir.ExternalTensor)
    np.testing.assert_array_equal(Session(module).run({"x": x})["y"], expected)


def test_a_file_of_weights_that_is_read_elsewhere_stays_open(tmp_path: pathlib.Path) -> None:
    module = with_weight(4)
    ir.save(module.model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    module.model = ir.load(tmp_path / "m.onnx")
    weight = module.graph.initializers["w"].const_value
    assert weight is not None
    view = weight.numpy()
    found = Session(module, graph_optimizations=False).run({"x": np.ones((1, 4), np.float32)})
    np.testing.assert_allclose(found["y"][0], view.sum(axis=0), rtol=1e-6)


def test_weights_may_lie_in_several_folders_and_in_memory(tmp_path: pathlib.Path) -> None:
    module = parse(
        """<ir_version: 10, opset_import: ["" : 23]>
        g (float[N,32] x) => (float[N,32] y)
        { a = MatMul (x, u)
          b = MatMul (a, v)
          y = MatMul (b, w) }"""
    )
    weights = {name: np.random.default_rng(0).random((32, 32), np.float32) for name in "uvw"}
    for name, array in weights.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(array.tobytes())
        inner = ir.ExternalTensor(
            "data",
            0,
            array.nbytes,
            ir.DataType.FLOAT,
            shape=ir.Shape(array.shape),
            name=name,
            base_dir=tmp_path / name,
        )
        value = ir.Value(name=name, const_value=inner if name != "w" else ir.tensor(array))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.FLOAT
        for node in module.graph:
            for index, operand in enumerate(node.inputs):
                if operand is not None and operand.name == name:
                    node.replace_input_with(index, value)
        module.graph.register_initializer(value)
    x = np.ones((2, 32), np.float32)
    expected = x @ weights["u"] @ weights["v"] @ weights["w"]
    np.testing.assert_allclose(Session(module).run({"x": x})["y"], expected, rtol=1e-5)


def test_the_module_keeps_its_weights() -> None:
    module = with_weight(4096)
    before = module.graph.initializers["w"].const_value
    Session(module)
    assert module.graph.initializers["w"].const_value is before


def test_a_failing_run_gives_one_line_that_names_the_model() -> None:
    module = parse(ADD)
    module.source = "adder.onnx"
    with pytest.raises(RuntimeFailedError, match=r"^adder.onnx: ") as caught:
        Session(module).run({"x": np.zeros(2, np.float32), "z": np.zeros(3, np.float32)})
    assert "\n" not in str(caught.value)


def test_an_operator_without_kernel_is_told_at_load() -> None:
    module = parse(
        '<ir_version: 10, opset_import: ["" : 23, "other" : 1]>\n'
        "g (float[N] x) => (float[N] y) { y = other.Strange (x) }"
    )
    with pytest.raises(RuntimeFailedError, match="Strange"):
        Session(module)


def test_kernels_are_asked_of_the_installed_runtime() -> None:
    assert has_kernel("SkipLayerNormalization", "com.microsoft", ir.DataType.FLOAT)
    assert not has_kernel("RemovePadding", "com.microsoft", ir.DataType.FLOAT)
    assert not has_kernel("Attention", "com.microsoft", ir.DataType.INT8)


def test_at_least_one_core_is_usable() -> None:
    assert usable_cores() >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
def test_weights_of_a_file_are_not_held_beside_the_runtimes_own_copy(
    tmp_path: pathlib.Path,
) -> None:
    size = 2**22
    module = with_weight(size)
    x = np.ones((1, size), np.float32)
    expected = Session(module).run({"x": x})["y"]
    ir.save(module.model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    module.model = ir.load(tmp_path / "m.onnx")
    weight = module.graph.initializers["w"].const_value
    assert weight is not None
    weight.numpy().sum()
    before = mapped_bytes()
    session = Session(module)
    assert before - mapped_bytes() > weight.nbytes / 2
    np.testing.assert_array_equal(session.run({"x": x})["y"], expected)


def mapped_bytes() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    (found,) = re.findall(r"RssFile:\s+(\d+) kB", status)
    return 1024 * int(found)


ENDLESS = (
    HEADER
    + """
endless (float[N] x) => (float[N] y)
{
    n = Constant <value_int = 9223372036854775807> ()
    c = Constant <value = bool {1}> ()
    y = Loop (n, c, x) <body = step (int64 i, bool k, float[N] a) => (bool l, float[N] b)
        { l = Identity (k)  b = Neg (a) }>
}
"""
)


@pytest.mark.parametrize("served", [False, True])
def test_a_run_on_trial_that_never_ends_is_stopped(
    served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_limits, "_LEAST_SECONDS", 0.1)
    session = Session(parse(ENDLESS), graph_optimizations=served, on_trial=served)
    with pytest.raises(RunOverdueError, match=r"stopped after 0\.1"):
        session.run({"x": np.ones(2, np.float32)})


def test_the_time_of_a_trial_grows_with_the_model_and_its_inputs() -> None:
    small, large = RunLimit(with_weight(4)), RunLimit(with_weight(4096))
    one, many = {"x": np.ones((1, 4096))}, {"x": np.ones((1000, 4096))}
    assert 4 < small.seconds(one) < large.seconds(one) < large.seconds(many)


@pytest.mark.parametrize("optimized", [True, False])
def test_too_little_memory_is_told_as_such(optimized: bool) -> None:
    module = parse(
        HEADER + "g (float[N] x, int64[1] n) => (float[M] y) { y = Expand (x, n) }",
        source="expand.onnx",
    )
    session = Session(module, graph_optimizations=optimized)
    inputs = {"x": np.ones(1, np.float32), "n": np.array([2**40])}
    with pytest.raises(MemoryError, match=r"^expand\.onnx: "):
        session.run(inputs)


def test_a_reference_reads_weights_where_they_lie() -> None:
    module = with_weight(4096)
    x = np.ones((3, 4096), np.float32)
    reference = Session(module, graph_optimizations=False)
    assert reference.input_names == ["x"]
    found = reference.run({"x": x})["y"]
    np.testing.assert_allclose(found, Session(module).run({"x": x})["y"], rtol=1e-4, atol=1e-4)
    # Proof that it holds no copy: what changes there changes the result.
    weight = module.graph.initializers["w"].const_value
    assert weight is not None
    weight.numpy()[:] = 0
    assert not reference.run({"x": x})["y"].any()


def test_a_default_that_a_caller_may_override_stays_one() -> None:
    module = with_weight(4096)
    module.graph.inputs.append(module.graph.initializers["w"])
    session = Session(module, graph_optimizations=False)
    x = np.ones((1, 4096), np.float32)
    assert session.run({"x": x})["y"].any()
    assert not session.run({"x": x, "w": np.zeros((4096, 2), np.float32)})["y"].any()


def test_memory_is_planned_ahead_unless_sizes_depend_on_values() -> None:
    found = parse(HEADER + "g (float[N] x) => (int64[1,M] y) {y = NonZero (x)}")
    sessions = [Session(module)._session for module in (found, parse(ADD))]
    packed, dense = (session.get_session_options() for session in sessions)
    assert not packed.enable_mem_pattern
    assert dense.enable_mem_pattern
