from __future__ import annotations

import numpy as np
import pytest

from dechaff.backends import Session, lower, start_session
from dechaff.calibration import Calibration
from dechaff.ir import Module, UsageError
from dechaff.passes import PassContext, PassRecord, parse_pass_list, run_passes
from dechaff.passes.quantization.ranges import activation_range
from dechaff.passes.quantize_static import QuantizeStatic, QuantizeStaticOptions
from tests.model_runner import Array
from tests.passes.rewrite_checks import module_from, record_of, relative_error
from tests.passes.test_quantize_dynamic import ExportedBert, sentences

TARGETS = ("cpu", "portable")
INT8_ERROR = 0.03
TWO_LAYERS = """g (float[T,16] x) => (float[T,8] y)
    <float[16,24] w = {...}, float[24] b = {...}, float[24,8] v = {...}, float[8] c = {...}>
    {
        hidden = Gemm (x, w, b)
        active = Gelu (hidden)
        product = MatMul (active, v)
        y = Add (c, product)
    }"""


def normal(tokens: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((tokens, 16)).astype(np.float32)


def quantized(data: list[Array], text: str = TWO_LAYERS, **options: object) -> Module:
    return with_record(data, text, **options)[0]


def with_record(
    data: list[Array], text: str = TWO_LAYERS, **options: object
) -> tuple[Module, PassRecord]:
    step = QuantizeStatic(QuantizeStaticOptions(**options))  # type: ignore[arg-type]
    context = PassContext(Calibration([{"x": x} for x in data], "test"))
    after, records = run_passes(module_from(text), [step], context=context)
    return after, records[0]


def error(after: Module, x: Array) -> float:
    expected = Session(module_from(TWO_LAYERS), graph_optimizations=False).run({"x": x})["y"]
    return relative_error(Session(after, graph_optimizations=False).run({"x": x})["y"], expected)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_ranges_from_typical_data_keep_the_numbers(method: str) -> None:
    x = normal(256)
    # Clipping trades the farthest numbers for finer steps.
    limit = INT8_ERROR if method == "minmax" else 4 * INT8_ERROR
    assert error(quantized([x], method=method), x) < limit


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_kernels_agree_with_the_standard_form(tokens: int, target: str) -> None:
    after = quantized([normal(64)])
    lowered = lower(after, target)
    domains = {node.domain for node in lowered.graph}
    assert domains == ({"", "com.microsoft"} if target == "cpu" else {""})
    if target == "cpu":  # biases are added by the kernel
        assert [n.op_type for n in lowered.graph if n.op_type in ("Add", "MatMul")] == []
    expected = Session(after, graph_optimizations=False).run({"x": normal(tokens, 1)})["y"]
    found = Session(lowered).run({"x": normal(tokens, 1)})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_smoothing_keeps_the_precision_of_small_features_beside_an_outlier() -> None:
    x = normal(256)
    x[:, 3] *= 100
    plain, smooth = (error(quantized([x], smooth=strength), x) for strength in (0.0, 0.5))
    assert smooth < 0.75 * plain


def test_smoothing_of_strength_zero_adds_nothing() -> None:
    after = quantized([normal(64)], smooth=0.0)
    assert all(node.op_type != "Mul" for node in after.graph)


def test_an_empty_range_leaves_the_layer_in_float32() -> None:
    after, record = with_record([np.zeros((4, 16), np.float32)])
    assert "all zero: no range can be made" in record.misses[0].reason
    assert [n.op_type for n in after.graph][:1] == ["Gemm"]


def test_few_tokens_are_said_to_be_few() -> None:
    _, record = with_record([normal(1)])
    assert "the calibration data has 1 tokens" in "\n".join(record.notes)


def test_without_calibration_data_it_says_what_to_give() -> None:
    with pytest.raises(UsageError, match="quantize-static needs calibration data"):
        run_passes(module_from(TWO_LAYERS), [QuantizeStatic()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mse"}, "minmax, percentile, entropy, got 'mse'"),
        ({"percentile": 10.0}, "more than 50, to 100"),
        ({"smooth": 2.0}, "strength from 0 to 1"),
        ({"weight_bits": 4}, "0, 7 or 8"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeStaticOptions(**options)  # type: ignore[arg-type]


def test_zero_is_in_every_range() -> None:
    positive = np.linspace(3, 4, 100, dtype=np.float32)
    for method in ("minmax", "percentile", "entropy"):
        low, high = activation_range(positive, method, 99.9)
        assert low == 0 < high <= 4
        assert activation_range(-positive, method, 99.9)[1] == 0


def test_entropy_and_percentile_clip_a_lone_outlier() -> None:
    numbers = np.append(np.random.default_rng(0).standard_normal(100_000), 1000).astype(np.float32)
    for method in ("entropy", "percentile"):
        assert activation_range(numbers, method, 99.99)[1] < 100
    assert activation_range(numbers, "minmax", 99.99)[1] == 1000


@pytest.mark.parametrize("lengths", [(5, 3, 1), (1,), (5, 0, 2)])
def test_packed_bert_keeps_its_numbers_whatever_the_padding_holds(
    exported_bert: ExportedBert, lengths: tuple[int, ...]
) -> None:
    module = exported_bert("sdpa", 18)
    data = sentences((5, 4, 3, 2, 1))
    garbage = dict(data, input_ids=np.where(data["attention_mask"] == 1, data["input_ids"], 49))
    results = []
    for batch in (data, garbage):
        context = PassContext(Calibration([batch], "test"))
        passes = parse_pass_list("default,quantize-static")
        after, records = run_passes(module.clone(), passes, context=context)
        assert len(record_of("quantize-static", records).rewrites) == 13
        inputs = sentences(lengths)
        results.append(Session(lower(after)).run(inputs)["hidden"])
    np.testing.assert_array_equal(results[0], results[1])
    expected = Session(module, graph_optimizations=False).run(inputs)["hidden"]
    valid = inputs["attention_mask"] == 1
    assert not results[0][~valid].any()
    assert relative_error(results[0][valid], expected[valid]) < 2 * INT8_ERROR


ATTENTION = """g (float[T,16] x, int64[N] starts) => (float[T,16] y)
    <float[16,16] q_weight = {...}, float[16,16] k_weight = {...}, float[16,16] v_weight = {...},
     float[16,8] out_weight = {...}, int64 zero = {0}, int64 one = {1}>
    {
        q = MatMul (x, q_weight)
        k = MatMul (x, k_weight)
        v = MatMul (x, v_weight)
        sizes = Shape (q)
        count = Gather <axis = 0> (sizes, zero)
        keys = Range (zero, count, one)
        context = dechaff.VarlenAttention
            <q_num_heads = 2, kv_num_heads = 2, scale = 0.35, is_causal = 0>
            (q, k, v, starts, keys, starts)
        y = Mul (context, x)
    }"""


def rounded_attention(x: Array) -> tuple[Module, Module, PassRecord]:
    module = module_from(ATTENTION)
    starts = np.array([0, len(x) // 2, len(x)])
    step = QuantizeStatic(QuantizeStaticOptions(attention=True))
    context = PassContext(Calibration([{"x": x, "starts": starts}], "test"))
    after, records = run_passes(module.clone(), [step], context=context)
    return module, after, records[0]


@pytest.mark.parametrize("target", ["", "cpu", "portable", "openvino"])
def test_queries_and_keys_of_packed_attention_are_rounded_too(target: str) -> None:
    module, after, _ = rounded_attention(normal(64))
    attention = next(node for node in after.graph if node.op_type == "VarlenAttention")
    makers = [value.producer() for value in attention.inputs[:3] if value is not None]
    kinds = [maker.op_type for maker in makers if maker is not None]
    assert kinds == ["DequantizeLinear", "DequantizeLinear", "MatMul"]
    inputs = {"x": normal(9, 1), "starts": np.array([0, 4, 4, 9])}
    expected = Session(module, graph_optimizations=False).run(inputs)["y"]
    found = start_session(lower(after, target) if target else after).run(inputs)["y"]
    assert relative_error(found, expected) < INT8_ERROR


def test_attention_is_left_as_it_is_by_default() -> None:
    context = PassContext(Calibration([{"x": normal(64), "starts": np.array([0, 64])}], "test"))
    after, _ = run_passes(module_from(ATTENTION), [QuantizeStatic()], context=context)
    attention = next(node for node in after.graph if node.op_type == "VarlenAttention")
    assert all(v.producer().op_type == "MatMul" for v in attention.inputs[:3])  # type: ignore[union-attr]


def test_attention_over_nothing_but_zeros_is_left_in_float32() -> None:
    _, after, record = rounded_attention(np.zeros((8, 16), np.float32))
    missed = [miss.reason for miss in record.misses if "VarlenAttention" in miss.node]
    assert len(missed) == 1
    assert "all zero" in missed[0]
    assert all(node.op_type != "QuantizeLinear" for node in after.graph)


def test_attention_that_nothing_packed_says_so() -> None:
    text = """g (float[B,S,16] x) => (float[B,S,16] y)
    { y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x) }"""
    _, record = with_record([normal(8)[None]], text, attention=True)
    assert "nothing packed this one" in record.misses[0].reason
