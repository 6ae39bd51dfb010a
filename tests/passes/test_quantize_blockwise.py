from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dechaff
from dechaff.backends import Session, lower
from dechaff.calibration import Calibration
from dechaff.ir import Module, UsageError
from dechaff.passes import PassContext, PassRecord, parse_pass_list, run_passes
from dechaff.passes.quantization.grids import Grid
from dechaff.passes.quantization.power_grids import PowerGrid
from dechaff.passes.quantize_blockwise import QuantizeBlockwise, QuantizeBlockwiseOptions
from tests.model_runner import Array
from tests.passes.rewrite_checks import check_declines, module_from, record_of, relative_error

ERROR_OF_FOUR_BITS = 0.25
ERROR_OF_EIGHT_BITS = 0.03
"""A power of two makes a step of at most twice the largest magnitude, some three standard
deviations, over 7 or 127; an error is a step over the root of 12, once for weights and once for
activations: 0.25 and 0.02, and half as much again for a single token."""
KERNELS_AGREE = 0.02
"""The kernel rounds activations to 8 bits by real scales, in blocks of its own."""

PRODUCT = """g (float[T,{features}] x) => (float[T,24] y)
    <float[{features},24] w = {{...}}, float[24] b = {{...}}>
    {{ product = MatMul (x, w)  y = Add (product, b) }}"""
FEED_FORWARD = """g (float[T,64] x) => (float[T,64] y)
    <float[64,128] w = {...}, float[128] b = {...}, float[128,64] v = {...}, float[64] c = {...},
     float[64] weight = {...}, float[64] shift = {...}>
    {
        wide = MatMul (x, w)
        active = dechaff.BiasGelu <approximate = "none"> (wide, b)
        narrow = MatMul (active, v)
        y, total = dechaff.BiasSkipLayerNormalization <epsilon = 1e-12>
            (narrow, x, weight, shift, c)
    }"""
TABLE = """g (int64[B,S] ids, int64[T] more) => (float[B,S,64] y, float[T,64] z)
    <float[9,64] table = {...}>
    { y = Gather (table, ids)  z = Gather (table, more) }"""


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(
    module: Module, data: list[Array] | None = None, **options: object
) -> tuple[Module, PassRecord]:
    step = QuantizeBlockwise(QuantizeBlockwiseOptions(**options))  # type: ignore[arg-type]
    calibration = None if data is None else Calibration([{"x": x} for x in data], "test")
    after, records = run_passes(module.clone(), [step], context=PassContext(calibration))
    return after, records[0]


def run(module: Module, inputs: dict[str, Array], target: str = "") -> dict[str, Array]:
    lowered = lower(module, target) if target else module
    return Session(lowered, graph_optimizations=target == "cpu").run(inputs)


def ops(module: Module) -> list[str]:
    return [node.op_type for node in module.graph]


@pytest.mark.parametrize("target", ["portable", "cpu"])
@pytest.mark.parametrize("tokens", [5, 1, 0])
@pytest.mark.parametrize(("bits", "error"), [(4, ERROR_OF_FOUR_BITS), (8, ERROR_OF_EIGHT_BITS)])
@pytest.mark.parametrize(("features", "group"), [(64, 32), (64, 0), (40, 16), (36, 0)])
def test_products_keep_to_their_bits_and_targets_agree(
    features: int, group: int, bits: int, error: float, tokens: int, target: str
) -> None:
    module = module_from(PRODUCT.format(features=features))
    after, record = quantized(module, bits=bits, group=group, block=32)
    assert ops(after).count("BlockwiseMatMul") == 1
    assert not record.misses
    inputs = {"x": normal(tokens, features)}
    expected, found = run(module, inputs)["y"], run(after, inputs)["y"]
    assert relative_error(found, expected) <= error
    assert relative_error(run(after, inputs, target)["y"], found) <= KERNELS_AGREE


def test_least_squares_beat_the_exponent_that_clips_nothing() -> None:
    matrix = normal(256, 32)
    chosen = PowerGrid.of(matrix, 4, 128)
    largest = np.abs(matrix.reshape(2, 128, 32)).max(axis=1)
    safe = PowerGrid(4, 128, np.exp2(np.ceil(np.log2(largest / 7))).astype(np.float32))
    errors = [np.linalg.norm(g.restore(g.round(matrix)) - matrix) for g in (chosen, safe)]
    assert errors[0] < errors[1]
    real = Grid.of(matrix, 4, 128)
    floor = np.linalg.norm(real.restore(real.round(matrix)) - matrix)
    assert errors[0] < 2 * floor  # 5 dB and some


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_powers_of_two_are_exact(value: float) -> None:
    matrix = np.full((32, 3), value, np.float32)
    grid = PowerGrid.of(matrix, 4, 16)
    np.testing.assert_array_equal(grid.restore(grid.round(matrix)), matrix)


@pytest.mark.parametrize("target", ["", "portable", "cpu"])
def test_functions_become_tables_and_biases_eight_bits(target: str) -> None:
    module = module_from(FEED_FORWARD)
    after, record = quantized(module, bits=8)
    assert not record.misses
    names = ops(after)
    assert names.count("BlockwiseGelu") == names.count("BlockwiseLayerNormalization") == 1
    assert names.count("BlockwiseRestore") == 4
    floats = [v for v in after.graph.initializers.values() if v.dtype is not None]
    assert all(not v.dtype.is_floating_point() for v in floats if v.dtype is not None)
    inputs = {"x": normal(6, 64)}
    expected = run(module, inputs)["y"]
    assert relative_error(run(after, inputs, target)["y"], expected) < 2 * ERROR_OF_EIGHT_BITS


def test_functions_stay_in_float_if_told() -> None:
    after, _ = quantized(module_from(FEED_FORWARD), functions=False)
    assert "BiasGelu" in ops(after)
    assert "BlockwiseMatMul" in ops(after)


@pytest.mark.parametrize("target", ["", "portable", "cpu"])
@pytest.mark.parametrize("group", [0, 16])
def test_tables_are_stored_once_in_half_a_byte_each(group: int, target: str) -> None:
    module = module_from(TABLE)
    after, _ = quantized(module, group=group)
    assert ops(after) == ["BlockwiseGather"] * 2
    tables = [v for v in after.graph.initializers.values() if v.shape == (9, 32)]
    assert len(tables) == 1
    inputs = {"ids": np.array([[0, 8], [3, 3], [1, 2]]), "more": np.arange(9)}
    expected, found = run(module, inputs), run(after, inputs, target)
    assert relative_error(found["z"], expected["z"]) < ERROR_OF_FOUR_BITS
    np.testing.assert_array_equal(found["y"], found["z"][inputs["ids"]])


def test_no_token_depends_on_another() -> None:
    after, _ = quantized(module_from(FEED_FORWARD))
    x = normal(6, 64)
    crowd = np.concatenate([x[:2], 1000 * x[2:]])
    for target in ("", "portable"):
        alone, together = run(after, {"x": x[:2]}, target), run(after, {"x": crowd}, target)
        np.testing.assert_array_equal(together["y"][:2], alone["y"])


def test_gptq_beats_rounding_and_needs_data() -> None:
    module = module_from(PRODUCT.format(features=64))
    mixing = normal(64, 64, seed=9) * np.float32(0.8) ** np.arange(64, dtype=np.float32)[:, None]
    data = [normal(128, 64, seed=seed) @ mixing for seed in range(3)]
    inputs = {"x": normal(64, 64, seed=7) @ mixing}
    expected = run(module, inputs)["y"]
    errors = [
        relative_error(run(quantized(module, data, method=method)[0], inputs)["y"], expected)
        for method in ("gptq", "rtn")
    ]
    assert errors[0] < 0.75 * errors[1]
    with pytest.raises(UsageError, match="needs calibration data"):
        quantized(module, method="gptq")


def test_a_bert_is_compressed_whole(exported_bert: Callable[[str, int], Module]) -> None:
    module = exported_bert("sdpa", 18)
    passes = parse_pass_list("default,quantize-blockwise{group=0}")
    after, records = run_passes(module.clone(), passes)
    names = [node.op_type for node in after.nodes()]
    assert names.count("BlockwiseVarlenAttention") == names.count("BlockwiseGelu") == 2
    assert not {"MatMul", "Gemm", "LayerNormalization", "Gelu"} & set(names)
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    ids = np.arange(12).reshape(3, 4)
    given = dict(zip((v.name or "" for v in module.graph.inputs), (ids, mask), strict=True))
    expected = run(module, given)["hidden"][mask == 1]
    results = {target: run(after, given, target)["hidden"] for target in ("", "portable", "cpu")}
    for found in results.values():
        assert relative_error(found[mask == 1], expected) < 2 * ERROR_OF_FOUR_BITS
        assert not found[mask == 0].any()
    assert relative_error(results["portable"], results[""]) < KERNELS_AGREE
    assert not any(node.domain == "dechaff" for node in lower(after, "portable").nodes())
    assert record_of("quantize-blockwise", records).rewrites


def test_the_file_is_small_and_runs(tmp_path: Path) -> None:
    """A table dominates: half a byte for each element, and little else."""
    module = module_from(TABLE.replace("[9,64]", "[2000,64]"))
    save = functools.partial(dechaff.optimize, progress=False, verify="off")
    for target in ("cpu", "portable"):
        path = tmp_path / f"{target}.onnx"
        save(module.model, passes="quantize-blockwise{group=0}", target=target).save(path)
        payload = 2000 * 64 // 2 + 2000 // 2
        assert payload < path.stat().st_size < payload + 8000
        loaded = dechaff.load(path)
        found = loaded.run({"ids": np.array([[1, 2]]), "more": np.array([1, 2])})
        np.testing.assert_array_equal(found["y"][0], found["z"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            """g (float[T,8] x) => (float[T,8] y)
            { y = Softmax <axis = 0> (x) }""",
            "not over the last axis",
        ),
        (
            """g (int64[T] ids) => (float[T,3] y) <float[4,3] table = {...}>
            { y = Gather (table, ids) }""",
            "odd number of columns",
        ),
        (
            """g (int64[T] ids) => (float[T,2] y, float[2,4] z) <float[4,2] table = {...}>
            { y = Gather (table, ids)  z = Transpose (table) }""",
            "read as a whole too",
        ),
        (
            """g (float[T,8] q, int64[N] starts, int64[K] index) => (float[T,8] y)
            {
                y = dechaff.VarlenAttention
                    <q_num_heads = 2, kv_num_heads = 2, scale = 0.5, is_causal = 1>
                    (q, q, q, starts, index, starts)
            }""",
            "it is causal",
        ),
        (
            """g (float[T,8] q, float[T,4] k, int64[N] starts, int64[K] index) => (float[T,8] y)
            {
                y = dechaff.VarlenAttention
                    <q_num_heads = 2, kv_num_heads = 1, scale = 0.5, is_causal = 0>
                    (q, k, k, starts, index, starts)
            }""",
            "its heads share keys",
        ),
        (
            """g (float[B,S,8] x) => (float[B,S,8] y)
            { y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x) }""",
            "it is over padded rows",
        ),
        (
            """g (float[T,8] x, float[8] weight) => (float[T,8] y)
            { y = RMSNormalization (x, weight) }""",
            "integers for LayerNormalization only",
        ),
        (
            """g (float[T,8] x, float[T,8] skip, float[8] weight) => (float[T,8] y, float[T,8] z)
            { y, z = dechaff.SkipRMSNormalization <epsilon = 1e-6> (x, skip, weight) }""",
            "integers for LayerNormalization only",
        ),
        (
            """g (float[T,8] q, int64[N] starts, int64[T] index, float[B,1,S,S] mask)
                => (float[T,8] y)
            {
                y = dechaff.MaskedVarlenAttention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5>
                    (q, q, q, starts, index, mask)
            }""",
            "adds no mask or bias",
        ),
        (
            """g (float[T,8] q, int64[N] starts, int64[K] index) => (float[T,8] y)
            {
                y = dechaff.LocalVarlenAttention
                    <q_num_heads = 2, kv_num_heads = 2, scale = 0.5, is_causal = 0, window = 2,
                     num_global = 0> (q, q, q, starts, index, starts)
            }""",
            "the blockwise attention has no window",
        ),
        (
            """g (float[T,8] q, int64[N] starts, int64[K] index) => (float[T,8] y)
            {
                y = dechaff.TopKVarlenAttention
                    <q_num_heads = 2, kv_num_heads = 2, scale = 0.5, is_causal = 0, k = 2,
                     fraction = 0.0> (q, q, q, starts, index, starts)
            }""",
            "the blockwise attention keeps all keys",
        ),
        (
            "g (float[T,4] x, float[4,4] u) => (float[T,4] y) { y = MatMul (x, u) }",
            "its second operand is not a constant",
        ),
    ],
)
def test_what_stays_in_float_says_why(text: str, reason: str) -> None:
    check_declines(QuantizeBlockwise(), text, reason)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "bits expects one of 4, 8, got 3"),
        ({"group": 100}, "group expects one of 0, 16"),
        ({"block": 8}, "block expects one of 16"),
        ({"method": "awq"}, "method expects one of rtn, gptq, got 'awq'"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeBlockwiseOptions(**options)  # type: ignore[arg-type]
