"""Models as torch's two exporters write them, at many opsets: read, converted, compared."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir
import pytest
import torch

from dechaff.ir import WORKING_OPSET, Module, module_path, node_text, shape_expressions
from tests.frontend.conftest import DYNAMO, LEGACY, NAMES, SIZES, make_bert, make_inputs
from tests.model_runner import run_module

pytestmark = pytest.mark.parametrize(("attention", "opset"), [*LEGACY, *DYNAMO])
Read = Callable[[str, int], Module]


def test_the_numbers_are_those_of_torch_at_every_size(
    exported_bert: Read, attention: str, opset: int
) -> None:
    module, bert = exported_bert(attention, opset), make_bert(attention)
    for batch, sequence in SIZES:
        inputs = make_inputs(batch, sequence)
        with torch.no_grad():
            expected = bert(**inputs)
        results = run_module(module, {name: ids.numpy() for name, ids in inputs.items()})
        for name in NAMES:
            torch.testing.assert_close(torch.from_numpy(results[name]), expected[name])


def test_the_module_is_at_the_working_opset(
    exported_bert: Read, attention: str, opset: int
) -> None:
    assert exported_bert(attention, opset).opset == WORKING_OPSET


def test_every_size_is_known_in_terms_of_the_inputs(
    exported_bert: Read, attention: str, opset: int
) -> None:
    module = exported_bert(attention, opset)
    unknown = [
        node_text(node)
        for node in module.nodes()
        if not all(_is_known(value, {"batch", "sequence"}) for value in node.outputs)
    ]
    assert unknown == []
    assert set(module.symbols) == {"batch", "sequence"}


def _is_known(value: onnx_ir.Value, names: set[str]) -> bool:
    sizes = shape_expressions(value)
    if sizes is None:
        return False
    return {symbol.name for size in sizes for symbol in size.free_symbols} <= names


def test_nodes_know_their_torch_module(exported_bert: Read, attention: str, opset: int) -> None:
    module = exported_bert(attention, opset)
    prefix = "bert." if (attention, opset) in LEGACY else ""
    products = [module_path(node) for node in module.nodes() if node.op_type == "MatMul"]
    assert f"{prefix}encoder.layer.1.attention.self.query" in products
    assert f"{prefix}encoder.layer.0.output.dense" in products
