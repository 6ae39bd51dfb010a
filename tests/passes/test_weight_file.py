"""Where new weights lie until they are saved, and that read ones are let go."""

from __future__ import annotations

import os
import pathlib
import sys
import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest

import dechaff
from dechaff import model_files
from dechaff.ir import Module, unload_mapped
from dechaff.passes import weight_file
from dechaff.passes.quantization.gptq import Hessian, Rounder
from dechaff.passes.weight_file import WeightFile


def with_weight(tensor: ir.TensorProtocol) -> ir.Model:
    """A model of one product."""
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]>
        g (float[T,512] x, float[512,512] w) => (float[T,512] y) { y = MatMul (x, w) }"""
    )
    weight = model.graph.inputs.pop()
    weight.const_value = tensor
    model.graph.register_initializer(weight)
    return model


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(weight_file, "_IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(weight_file, "_PIECE_BYTES", 1 << 14)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_large_arrays_are_kept_in_few_files_without_a_name(tmp_path: pathlib.Path) -> None:
    generator = np.random.default_rng(0)
    given = [
        generator.integers(-99, 99, shape).astype(dtype)
        for shape in ((10,), (3, 999), (100, 50), (7, 30000), (2000,), (4001,))
        for dtype in (np.int8, np.float32)
    ]
    file, before = WeightFile(), open_files() if sys.platform == "linux" else 0
    kept = [file.keep(array.T).T for array in given] * 2
    if sys.platform == "linux":
        assert open_files() - before < len(given)
    del file
    for array, found in zip(given * 2, kept, strict=True):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert not list(tmp_path.iterdir())
    assert kept[0].flags.writeable
    assert not kept[-1].flags.writeable


def test_a_full_disk_is_an_error() -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            WeightFile().keep(np.zeros(5000, np.int8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def resident_bytes(path: pathlib.Path) -> int:
    """How much of a file the process holds in memory."""
    found, is_mapped = 0, False
    for line in pathlib.Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split()[0]:
            is_mapped = line.endswith(str(path))
        elif is_mapped and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_in_a_file_are_let_go_once_they_are_quantized(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "weights"
    matrix = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    matrix.tofile(path)
    tensor = ir.ExternalTensor(
        "weights",
        0,
        matrix.nbytes,
        ir.DataType.FLOAT,
        shape=ir.Shape(matrix.shape),
        name="w",
        base_dir=str(tmp_path),
    )
    np.testing.assert_array_equal(tensor.numpy(), matrix)
    assert resident_bytes(path) == matrix.nbytes
    unload_mapped([ir.Value(name="w", const_value=tensor)])
    assert resident_bytes(path) == 0
    np.testing.assert_array_equal(tensor.numpy(), matrix)

    dechaff.optimize(
        with_weight(tensor),
        passes="quantize-weights{method=gptq}",
        target="portable",
        verify="off",
        progress=False,
        calibration=[{"x": np.eye(512, dtype=np.float32)}],
    )
    assert resident_bytes(path) == 0


@pytest.mark.parametrize("features", [1, 127, 128, 129, 515])
def test_the_factor_is_that_of_the_inverse(features: int) -> None:
    x = np.random.default_rng(features).standard_normal((2 * features, features))
    hessian = Hessian(features)
    hessian.add(x.astype(np.float32))
    upper = np.triu(Rounder(hessian, damping=0.01, act_order=False)._upper)
    damped = hessian.sum + 0.01 * hessian.sum.diagonal().mean() * np.eye(features)
    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(features), atol=1e-4)
    difference = x[:features, : features // 2 + 1].astype(np.float32)
    expected = np.sum((x.astype(np.float32) @ difference).astype(np.float64) ** 2)
    assert hessian.error(difference) == pytest.approx(expected, rel=1e-5)


def test_the_factorization_holds_few_copies() -> None:
    features = 640
    hessian = Hessian(features)
    hessian.add(np.random.default_rng(0).standard_normal((features, features), np.float32))
    tracemalloc.start()
    Rounder(hessian, damping=0.01, act_order=True)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    in_double_and_single = 3 * hessian.sum.nbytes
    assert most < 1.3 * in_double_and_single


def test_what_came_with_a_file_of_weights_is_saved_with_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = dechaff.OptimizedModel(Module(with_weight(ir.tensor(np.eye(512, dtype=np.float32)))))
    plain.save(tmp_path / "whole.onnx")
    plain.save(tmp_path / "apart.onnx", external_data=True)
    loaded = dechaff.load(tmp_path / "apart.onnx")
    loaded.save(tmp_path / "small.onnx")
    monkeypatch.setattr(model_files, "_MAX_READ_EMBEDDED_BYTES", 1 << 19)
    loaded.save(tmp_path / "large.onnx")
    with_data = {path.name.partition(".onnx.")[0] for path in tmp_path.glob("*.data")}
    assert with_data == {"apart", "large"}
