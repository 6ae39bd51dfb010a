from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dechaff.backends import Session, lower
from dechaff.ir import Module
from dechaff.passes import PassContext, parse_pass_list, run_passes
from dechaff.passes.quantize_dynamic import QuantizeDynamic, QuantizeDynamicOptions
from tests.passes.rewrite_checks import (
    check_declines,
    check_ignores,
    module_from,
    record_of,
    relative_error,
    run_pass,
)

TARGETS = ("cpu", "portable")
INT8_ERROR = 0.03
"""Two operands rounded to 8 bits, through a few layers."""
ExportedBert = Callable[[str, int], Module]


def layer(body: str, more: str = "") -> str:
    return (
        "g (float[T,4] x, float[4,4] u) => (float[T,4] y)\n"
        f"<float[4,4] w = {{...}}, float[4] b = {{...}}{more}> {{ {body} }}"
    )


def ops(module: Module) -> list[str]:
    return [node.op_type for node in module.graph]


def test_layers_that_read_one_value_share_its_integers() -> None:
    after, _ = run_pass(
        QuantizeDynamic(),
        module_from(layer("p = MatMul (x, w)\n r = MatMul (x, w)\n y = Add (p, r)")),
    )
    assert ops(after) == ["QuantizePerToken", "QuantizedMatMul", "QuantizedMatMul", "Add"]


@pytest.mark.parametrize("attributes", ["", "<transB = 1>", "<alpha = 1.0, transB = 0>"])
def test_a_gemm_is_a_product_and_its_bias(attributes: str) -> None:
    before = module_from(layer(f"y = Gemm {attributes} (x, w, b)"))
    after, _ = run_pass(QuantizeDynamic(), before)
    assert ops(after) == ["QuantizePerToken", "QuantizedMatMul", "Add"]
    check_close(before, after, {"x": normal(5, 4), "u": normal(4, 4)})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = MatMul (x, u)", "its second operand is not a constant"),
        ("y = Gemm <alpha = 2.0> (x, w, b)", "a Gemm that scales"),
        ("z = Gemm <transA = 1> (x, w, b)\n y = Add (z, x)", "transposes its activations"),
        ("y = MatMul (x, broken)", "its weights are not finite"),
        ("t = MatMul (x, stack)\n y = ReduceSum <keepdims = 0> (t, first)", "3 axes and not two"),
        ("d = Cast <to = 11> (x)\n z = MatMul (d, dd)\n y = Cast <to = 1> (z)", "not computed in"),
    ],
)
def test_each_condition_alone_stops_it(body: str, reason: str) -> None:
    more = """, float[4,4] broken = {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, inf, 1, 2, 3, 4},
        float[1,4,4] stack = {...}, double[4,4] dd = {...}, int64[1] first = {0}"""
    check_declines(QuantizeDynamic(), layer(body, more), reason)


def test_layers_are_left_out_by_name() -> None:
    step = QuantizeDynamic(QuantizeDynamicOptions(exclude="no*|Mat?ul_*|node_*"))
    check_declines(step, layer("y = MatMul (x, w)"), "exclude names it")


def test_a_graph_without_products_is_left_alone() -> None:
    check_ignores(QuantizeDynamic(), layer("y = Add (x, b)"))


def test_weights_keep_to_seven_bits_where_products_saturate() -> None:
    module = module_from(layer("y = MatMul (x, w)"))
    for saturates, largest in ((True, 63), (False, 127)):
        context = PassContext(products_saturate=saturates)
        after, _ = run_passes(module.clone(), [QuantizeDynamic()], context=context)
        weights = after.graph.initializers["w_1"].const_value
        assert weights is not None
        assert np.abs(weights.numpy().astype(int)).max() == largest


@pytest.mark.parametrize(
    ("options", "message"),
    [({"activations": "row"}, "token or tensor, got 'row'"), ({"weight_bits": 4}, "0, 7 or 8")],
)
def test_options_are_checked(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantizeDynamicOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(5,), (1,), (0,), (2, 3)])
@pytest.mark.parametrize("activations", ["token", "tensor"])
def test_kernels_agree_with_the_reference(
    activations: str, shape: tuple[int, ...], target: str
) -> None:
    leading = ",".join("BT"[-len(shape) :])
    text = layer("z = MatMul (x, w)\n y = Add (z, b)").replace("[T,4]", f"[{leading},4]")
    step = QuantizeDynamic(QuantizeDynamicOptions(activations))
    after, _ = run_pass(step, module_from(text))
    inputs = {"x": normal(*shape, 4), "u": normal(4, 4)}
    lowered = lower(after, target)
    uses_contrib = any(node.domain == "com.microsoft" for node in lowered.graph)
    assert uses_contrib == (target == "cpu")
    expected = Session(after, graph_optimizations=False).run(inputs)["y"]
    found = Session(lowered).run(inputs)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [(5, 3, 1), (1,), (5, 0, 2)])
@pytest.mark.parametrize("target", TARGETS)
def test_packed_bert_keeps_its_numbers_and_its_zeros(
    exported_bert: ExportedBert, target: str, lengths: tuple[int, ...]
) -> None:
    module, lowered = quantized_bert(exported_bert, target)
    inputs = sentences(lengths)
    expected = Session(module, graph_optimizations=False).run(inputs)["hidden"]
    found = Session(lowered).run(inputs)["hidden"]
    valid = inputs["attention_mask"] == 1
    assert not found[~valid].any()
    assert relative_error(found[valid], expected[valid]) < INT8_ERROR


def test_no_answer_depends_on_its_batch(exported_bert: ExportedBert) -> None:
    _, lowered = quantized_bert(exported_bert, "cpu")
    session = Session(lowered)
    inputs = sentences((5, 3, 1))
    together = session.run(inputs)["hidden"]
    for row in range(3):
        alone = session.run({name: array[row : row + 1] for name, array in inputs.items()})
        np.testing.assert_allclose(alone["hidden"][0], together[row], rtol=1e-5, atol=1e-5)


def quantized_bert(exported_bert: ExportedBert, target: str) -> tuple[Module, Module]:
    module = exported_bert("sdpa", 18)
    after, records = run_passes(module.clone(), parse_pass_list("default,quantize-dynamic"))
    assert len(record_of("quantize-dynamic", records).rewrites) == 13
    return module, lower(after, target)


def sentences(lengths: tuple[int, ...]) -> dict[str, np.ndarray[tuple[int, ...], np.dtype]]:
    mask = (np.arange(5) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.arange(5 * len(lengths)).reshape(-1, 5) % 50
    return {"input_ids": ids, "attention_mask": mask}


def normal(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def check_close(before: Module, after: Module, inputs: dict[str, np.ndarray]) -> None:
    expected = Session(before, graph_optimizations=False).run(inputs)["y"]
    found = Session(after, graph_optimizations=False).run(inputs)["y"]
    assert relative_error(found, expected) < INT8_ERROR
