"""Reading ONNX files: what is accepted, what it becomes, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest

from dechaff.frontend import from_onnx
from dechaff.ir import (
    SymbolRange,
    canonical_lines,
    module_path,
    origins,
    value_type_text,
)
from tests.frontend.onnx_models import TEXT, proto, save
from tests.model_runner import run_module


def test_every_form_of_a_model_gives_the_same_module(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", proto())
    text = tmp_path / "model.onnxtxt"
    text.write_text(TEXT)
    sources: list[Any] = [path, str(path), text, proto(), onnx_ir.load(path)]
    assert len({tuple(canonical_lines(from_onnx(source))) for source in sources}) == 1
    assert from_onnx(path).source == "model.onnx"


def test_a_model_in_memory_is_not_changed() -> None:
    model = onnx_ir.from_proto(proto())
    before = onnx_ir.to_onnx_text(model)
    assert from_onnx(model).opset == 23
    assert onnx_ir.to_onnx_text(model) == before


def test_a_newer_model_keeps_its_opset() -> None:
    assert from_onnx(proto(TEXT.replace('"" : 18', '"" : 24'))).opset == 24


def test_the_domain_of_the_standard_operators_has_two_names() -> None:
    model = proto()
    model.opset_import[0].domain = "ai.onnx"
    assert from_onnx(model).opset == 23


def test_every_node_is_its_own_origin_with_a_unique_name() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[B] x) => (float[B] z)
    {
        y = Neg (x)
        z = Neg (y)
    }
    """
    model = proto(text)
    for node in model.graph.node:
        node.name = "same"
    nodes = list(from_onnx(model).nodes())
    assert [origins(node) for node in nodes] == [(node.name,) for node in nodes]
    assert len({node.name for node in nodes}) == 2


def test_sizes_without_a_name_are_named_after_their_input() -> None:
    model = proto(TEXT.replace("float[B, 4] x", "float[?, 4] x"))
    module = from_onnx(model)
    assert value_type_text(module.graph.inputs[0]) == "float[x_dim_0,4]"
    assert value_type_text(next(module.nodes()).outputs[0]) == "float[x_dim_0,4]"
    assert module.symbols == {"x_dim_0": SymbolRange(1)}


def test_names_that_are_none_are_spelled_as_names_everywhere() -> None:
    model = proto()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch size"
    module = from_onnx(model)
    assert value_type_text(module.graph.inputs[0]) == "float[batch_size,4]"
    assert value_type_text(module.graph.outputs[0]) == "float[batch_size,4]"


def test_a_size_may_be_computed_from_those_of_other_inputs() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[P, 4] past, float[S, 4] new, float[B, 4] both) => (float[N, 4] y)
    {
        all = Concat <axis = 0> (past, new)
        y = Add (all, both)
    }
    """
    model = proto(text)
    model.graph.input[2].type.tensor_type.shape.dim[0].dim_param = "P + S"
    module = from_onnx(model)
    assert value_type_text(module.graph.inputs[2]) == "float[P + S,4]"
    assert set(module.symbols) == {"P", "S"}


def test_names_invented_by_an_exporter_give_way_to_what_inference_finds() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[B, S, 4] x, bool[B] keep) => (float[out_dim_0, out_dim_1] y, int64[1, kept] places)
    <int64[2] shape = {-1, 4}>
    {
        y = Reshape (x, shape)
        places = NonZero (keep)
    }
    """
    module = from_onnx(proto(text))
    shapes = [value_type_text(value) for value in module.graph.outputs]
    assert shapes == ["float[B*S,4]", "int64[1,kept]"]


def test_weights_that_old_models_list_as_inputs_are_constants() -> None:
    text = """
    <ir_version: 3, opset_import: ["" : 11]>
    g (float[B, 4] x, float[4] w) => (float[B, 4] y)
    <float[4] w = {1, 2, 3, 4}>
    {
        y = Mul (x, w)
    }
    """
    module = from_onnx(proto(text))
    assert [value.name for value in module.graph.inputs] == ["x"]
    assert module.model.ir_version >= 4


def test_defaults_of_inputs_stay_overridable_and_are_pointed_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = TEXT.replace("(float[B, 4] x)", "(float[B, 4] x, float[4] w)")
    module = from_onnx(proto(text))
    assert [value.name for value in module.graph.inputs] == ["x", "w"]
    assert "'w'" in caplog.text


def test_operators_of_foreign_domains_pass_untouched() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 11, "com.example" : 3]>
    g (float[B, 4] x) => (float[B, 4] y)
    {
        a = com.example.Softmax <axis = 1, secret: int = 5> (x)
        y = Relu (a)
    }
    """
    node = next(from_onnx(proto(text)).nodes())
    assert (node.domain, node.op_type) == ("com.example", "Softmax")
    assert {name: attribute.as_int() for name, attribute in node.attributes.items()} == {
        "axis": 1,
        "secret": 5,
    }


def test_operations_out_of_order_are_sorted() -> None:
    model = proto(
        """
        <ir_version: 8, opset_import: ["" : 23]>
        g (float[B] x) => (float[B] z)
        {
            y = Neg (x)
            z = Relu (y)
        }
        """
    )
    first, second = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([second, first])
    assert [node.op_type for node in from_onnx(model).nodes()] == ["Neg", "Relu"]


def test_module_paths_come_from_the_names_of_the_older_exporter() -> None:
    model = proto()
    model.producer_name = "pytorch"
    model.graph.node[0].name = "/encoder/layer.3/attention/self/Mul"
    assert module_path(next(from_onnx(model).nodes())) == "encoder.layer.3.attention.self"


def test_module_paths_come_from_the_metadata_of_the_newer_exporter() -> None:
    model = proto()
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'encoder.layer.3', 'mul_7']"
    assert module_path(next(from_onnx(model).nodes())) == "encoder.layer.3"


@pytest.mark.parametrize("scopes", ["[", "'x'", "[1, 2]", "[]", "(" * 500])
def test_metadata_that_says_nothing_is_ignored(scopes: str) -> None:
    model = proto()
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", scopes
    assert module_path(next(from_onnx(model).nodes())) == ""


def test_the_numbers_survive_reading() -> None:
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(run_module(from_onnx(proto()), {"x": x})["y"], [[1, 2, 3, 4]] * 2)
