from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import dechaff
from dechaff.backends import Session, lower
from dechaff.backends.onnxruntime.three_bit_storage import (
    define_unpacking,
    fits_three_bits,
    three_of_four,
)
from dechaff.backends.onnxruntime.weight_kernels import packed_blocks
from dechaff.calibration import Calibration
from dechaff.ir import Module, UsageError
from dechaff.passes import PassContext, PassRecord, run_passes
from dechaff.passes.quantization.bit_allocation import Sensitivity, allocate, total_error
from dechaff.passes.quantization.gptq import Hessian, Rounder
from dechaff.passes.quantization.grids import Grid
from dechaff.passes.quantize_weights import QuantizeWeights, QuantizeWeightsOptions
from dechaff.search.searched_inputs import SearchedInputs
from tests.model_runner import Array
from tests.passes.rewrite_checks import check_declines, module_from, relative_error, run_pass

TARGETS = ("cpu", "portable")
LEVELS_OF_BITS = {8: 127, 4: 7, 3: 3, 2: 2}
LARGEST_OF_COLUMN = 3.0
"""In units of the standard deviation, for columns of some ten to some hundred normal numbers."""
GAIN = 0.75
"""GPTQ is to leave at most this share of the output error of rounding to nearest."""


TABLE = """g (int64[B,S] ids, int64[T] more) => (float[B,S,64] y, float[T,64] z)
    <float[9,64] table = {...}>
    { y = Gather (table, ids)  z = Gather (table, more) }"""


def correlated(tokens: int, features: int, seed: int = 0) -> Array:
    """Activations in which few directions carry most, as those of trained models do."""
    mixing = np.random.default_rng(99).standard_normal((features, features))
    mixing *= 0.7 ** np.arange(features)[:, None]
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((tokens, features)) @ mixing
    return (rows + 0.1 * generator.standard_normal(rows.shape)).astype(np.float32)


def two_layers(features: int = 32) -> Module:
    return module_from(
        f"""g (float[T,{features}] x) => (float[T,16] y)
        <float[{features},24] w = {{...}}, float[24] b = {{...}}, float[24,16] v = {{...}}>
        {{
            hidden = Gemm (x, w, b)
            active = Relu (hidden)
            y = MatMul (active, v)
        }}"""
    )


def quantized(module: Module, data: list[Array] | None = None, **options: object) -> Module:
    return with_record(module, data, **options)[0]


def with_record(
    module: Module, data: list[Array] | None = None, **options: object
) -> tuple[Module, PassRecord]:
    step = QuantizeWeights(QuantizeWeightsOptions(**options))  # type: ignore[arg-type]
    calibration = None if data is None else Calibration([{"x": x} for x in data], "test")
    after, records = run_passes(module.clone(), [step], context=PassContext(calibration))
    return after, records[0]


def output_error(before: Module, after: Module, x: Array) -> float:
    expected = Session(before, graph_optimizations=False).run({"x": x})["y"]
    return relative_error(Session(after, graph_optimizations=False).run({"x": x})["y"], expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("group", [0, 16, 256])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_fewer_bits_cost_more_and_kernels_agree(bits: int, group: int, target: str) -> None:
    module = two_layers(40)  # 40 is no multiple of a group
    after = quantized(module, bits=bits, group=group)
    x = correlated(7, 40)
    step = LARGEST_OF_COLUMN / LEVELS_OF_BITS[bits]
    two_uniform_errors = step / np.sqrt(12) * np.sqrt(2)
    assert output_error(module, after, x) < 1.25 * two_uniform_errors
    expected = Session(after, graph_optimizations=False).run({"x": x})["y"]
    # The kernel for packed weights rounds activations to 8 bits within; the runtime chooses it for
    # the standard operators too, if it may.
    found = Session(lower(after, target), graph_optimizations=target == "cpu").run({"x": x})["y"]
    assert relative_error(found, expected) < (0.02 if target == "cpu" else 1e-5)


@pytest.mark.parametrize(
    ("bits", "group"), [(2, 32), (2, 256), (3, 16), (3, 128), (4, 128), (8, 64)]
)
def test_files_have_the_size_that_the_bits_say(bits: int, group: int, tmp_path: Path) -> None:
    module = module_from(
        "g (float[T,512] x) => (float[T,768] y) <float[512,768] w = {...}> { y = MatMul (x, w) }"
    )
    optimized = dechaff.optimize(
        module.model,
        passes=f"quantize-weights{{bits={bits},group={group}}}",
        progress=False,
        verify="off",
    )
    path = tmp_path / "model.onnx"
    optimized.save(path)
    weights, scales = 512 * 768 * bits // 8, 4 * 512 * 768 // group
    assert weights + scales < path.stat().st_size < weights + scales + 3000
    x = correlated(5, 512)
    found = dechaff.load(path).run({"x": x})["y"]
    expected = Session(quantized(module, bits=bits, group=group), graph_optimizations=False)
    assert relative_error(found, expected.run({"x": x})["y"]) < 0.02


def test_three_bits_are_what_they_were_when_taken_apart() -> None:
    integers = np.random.default_rng(0).integers(-4, 4, (64, 24)).astype(np.int8)
    packed = packed_blocks(integers, 16, 4)
    assert fits_three_bits(integers, packed)
    stored = three_of_four(packed)
    assert 4 * stored.nbytes == 3 * packed.nbytes
    module = module_from(
        """g (uint8[3,N] stored) => (uint8[24,4,8] packed)
        { packed = dechaff.storage.UnpackThreeBits <shape = [24, 4, 8]> (stored) }"""
    )
    define_unpacking(module)
    found = Session(module, graph_optimizations=False).run({"stored": stored})["packed"]
    np.testing.assert_array_equal(found, packed)
    assert not fits_three_bits(np.array([[4]], np.int8), packed)


@pytest.mark.parametrize("target", ["", "portable", "cpu"])
@pytest.mark.parametrize("group", [0, 16, 128])
@pytest.mark.parametrize(("bits", "error"), [(4, 0.2), (8, 0.02)])
def test_tables_are_stored_in_few_bits_and_rows_restored(
    bits: int, error: float, group: int, target: str
) -> None:
    module = module_from(TABLE)
    after = quantized(module, embeddings=bits, group=group)
    stored = [v for v in after.graph.initializers.values() if v.dtype is not ir.DataType.FLOAT]
    assert [v.const_value.nbytes for v in stored if v.const_value] == [9 * 64 * bits // 8]
    lowered = lower(after, target) if target else after
    inputs = {"ids": np.array([[0, 8], [3, 3], [1, 2]]), "more": np.arange(9)}
    expected = Session(module, graph_optimizations=False).run(inputs)
    found = Session(lowered, graph_optimizations=target == "cpu").run(inputs)
    assert relative_error(found["z"], expected["z"]) < error
    np.testing.assert_array_equal(found["y"], found["z"][inputs["ids"]])
    empty = {"ids": np.zeros((0, 2), np.int64), "more": np.arange(1)}
    assert Session(lowered, graph_optimizations=False).run(empty)["y"].shape == (0, 2, 64)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.0])
def test_rows_of_one_number_are_kept_exactly(value: float) -> None:
    module = module_from(TABLE)
    table = np.full((9, 64), value, np.float32)
    module.graph.initializers["table"].const_value = ir.tensor(table, name="table")
    after = quantized(module, embeddings=4, group=0)
    inputs = {"ids": np.array([[0, 8]]), "more": np.arange(9)}
    np.testing.assert_allclose(Session(after).run(inputs)["z"], table, rtol=1e-6)


def test_tables_that_are_read_as_a_whole_stay() -> None:
    module = module_from(
        """g (int64[T] ids, float[U,4] x) => (float[T,4] y, float[U,9] z) <float[9,4] table = {...}>
        { y = Gather (table, ids)  t = Transpose <perm = [1, 0]> (table)  z = MatMul (x, t) }"""
    )
    _, record = with_record(module, embeddings=4)
    assert any("is read as a whole too" in miss.reason for miss in record.misses)


def test_weights_of_integers_within_range_are_kept_exactly() -> None:
    module = module_from(
        "g (float[T,2] x) => (float[T,2] y) <float[2,2] w = {7, -2, 3, 0}> { y = MatMul (x, w) }"
    )
    after = quantized(module, bits=4, group=0)
    x = correlated(3, 2)
    np.testing.assert_allclose(output_error(module, after, x), 0, atol=1e-6)


def test_four_bits_take_half_a_byte() -> None:
    after = quantized(two_layers(), bits=4, group=32)
    stored = [
        value.const_value.nbytes
        for value in after.graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype.name == "INT4"
    ]
    assert stored == [32 * 24 // 2, 24 * 16 // 2]


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("bits", [3, 4])
def test_gptq_beats_rounding_to_nearest_on_the_calibration_data(bits: int, act_order: bool) -> None:
    x = correlated(512, 256)
    matrix = np.random.default_rng(1).standard_normal((256, 64)).astype(np.float32)
    hessian = Hessian(256)
    for batch in np.split(x, 4):
        hessian.add(batch)
    grid = Grid.of(matrix, bits, 128)
    chosen = Rounder(hessian, damping=0.01, act_order=act_order).round(matrix, grid)
    rounded = grid.restore(grid.round(matrix))
    errors = [np.linalg.norm(x @ (w - matrix)) for w in (grid.restore(chosen), rounded)]
    assert errors[0] < GAIN * errors[1]
    assert chosen.min() >= grid.bounds[0]
    assert chosen.max() <= grid.bounds[1]


def test_later_layers_see_what_quantized_ones_compute() -> None:
    module, data = two_layers(), [correlated(64, 32, seed) for seed in range(3)]
    after, record = with_record(module, data, method="gptq", bits=3, group=0)
    assert len(record.rewrites) == 2
    assert any("GPTQ leaves" in note for note in record.notes)
    rounded = quantized(module, bits=3, group=0)
    x = correlated(64, 32, 9)
    assert output_error(module, after, x) < output_error(module, rounded, x)


def test_dead_features_and_one_token_are_survived() -> None:
    x = correlated(1, 32)
    x[:, 5] = 0
    after = quantized(two_layers(), [x], method="gptq", bits=4, group=16)
    assert np.isfinite(output_error(two_layers(), after, x))


def test_gptq_without_calibration_data_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="needs calibration data: give calibration="):
        quantized(two_layers(), method="gptq")


def test_products_of_two_inputs_are_no_layers() -> None:
    check_declines(
        QuantizeWeights(),
        "g (float[T,4] x, float[4,4] u) => (float[T,4] y) { y = MatMul (x, u) }",
        "its second operand is not a constant",
    )


def test_layers_are_left_out_by_name() -> None:
    after, record = run_pass(QuantizeWeights(QuantizeWeightsOptions(exclude="*")), two_layers())
    assert len(record.misses) == 2
    assert all(node.op_type != "DequantizeLinear" for node in after.graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits expects one of 2, 3, 4, 8, got 5"),
        ({"group": 100}, "group expects one of 0, 16"),
        ({"method": "awq"}, "method expects one of rtn, gptq, got 'awq'"),
        ({"damping": -1.0}, "damping expects a share"),
        ({"average": 1.0}, "average expects 2 to 8 bits"),
        ({"embeddings": 2}, "embeddings expects one of 0, 4, 8, got 2"),
        ({"layers": "0=4"}, "layers expects NUMBER:BITS"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeWeightsOptions(**options)  # type: ignore[arg-type]


def test_mixed_precision_beats_one_width_at_the_same_size() -> None:
    found = [
        Sensitivity(100, {2: 1.0 * weight, 3: 0.2 * weight, 4: 0.04 * weight, 8: 0.0})
        for weight in (10.0, 1.0, 0.1, 0.01)
    ]
    for bits in (3, 4):
        mixed = allocate(found, bits)
        assert sum(mixed) <= bits * len(found)
        assert total_error(found, mixed) < total_error(found, [bits] * len(found))


def test_bits_are_not_spent_where_they_gain_nothing() -> None:
    found = [Sensitivity(100, dict.fromkeys((2, 3, 4, 8), 0.0)) for _ in range(2)]
    assert allocate(found, 8) == [2, 2]


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_the_layer_that_matters_in_the_end_gets_the_bits(method: str) -> None:
    module = module_from(
        """g (float[T,32] x) => (float[T,16] y)
        <float[32,16] w = {...}, float[16,32] v = {...}, float little = {0.01}>
        {
            loud = MatMul (x, w)
            other = Gemm <transB = 1> (x, v)
            quiet = Mul (other, little)
            y = Add (loud, quiet)
        }"""
    )
    _, record = with_record(module, [correlated(64, 32)], average=3.0, method=method, group=16)
    assert any("layers=0:4+1:2" in note for note in record.notes)


def test_sensitivities_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECHAFF_CACHE", str(tmp_path))
    calibration = Calibration([{"x": correlated(64, 32)}], "test", use_cache=True)
    noted: list[Sequence[str]] = []
    told: list[str] = []
    for average in (3.0, 3.0, 4.0):
        step = QuantizeWeights(QuantizeWeightsOptions(average=average, group=16))
        context = PassContext(calibration, report=told.append)
        _, records = run_passes(two_layers(), [step], context=context)
        noted.append(records[0].notes)
    assert told == ["sensitivity of layer 1 of 2", "sensitivity of layer 2 of 2"]
    assert noted[0] == noted[1]
    assert noted[0][0] == noted[2][0]  # the trade-off


def test_mixed_precision_without_calibration_data_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="needs calibration data: give calibration="):
        quantized(two_layers(), average=3.0)


def test_an_average_is_kept_and_told() -> None:
    module, data = two_layers(), [correlated(64, 32)]
    after, record = with_record(module, data, average=4.0, group=16)
    assert any("one width for all" in note for note in record.notes)
    x = correlated(64, 32, 9)
    uniform = quantized(module, bits=2, group=16)
    assert output_error(module, after, x) < output_error(module, uniform, x)


def test_single_layers_have_bits_of_their_own() -> None:
    after = quantized(two_layers(), bits=8, layers="1:4")
    stored = [
        tensor.dtype.name
        for value in after.graph.initializers.values()
        if (tensor := value.const_value) is not None and tensor.dtype.name.startswith("INT")
    ]
    assert stored == ["INT8", "INT4"]
    with pytest.raises(UsageError, match="there is no layer 2; the model has 2"):
        quantized(two_layers(), layers="2:4")


def test_a_search_is_offered_assignments_from_small_to_large() -> None:
    step, data = QuantizeWeights(), SearchedInputs([{"x": correlated(64, 32)}], "test")
    edits = step.edits(two_layers(), data)
    assert {edit.place for edit in edits} == {"bits"}
    changed: list[Any] = [edit.change(step.options) for edit in edits]
    assignments = [options.layers for options in changed]
    assert assignments[0] != assignments[-1] == "0:8+1:8"
