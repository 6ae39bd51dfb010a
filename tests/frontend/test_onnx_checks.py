"""Files from strangers: ambiguous, damaged, escaping or endless models are refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.parser
import onnx_ir
import pytest

from dechaff.frontend import from_onnx
from dechaff.ir import ModelRejectedError
from tests.frontend.onnx_models import TEXT, proto, refusal, save


def external(location: str, *, offset: int = 0, length: int = 16) -> onnx.ModelProto:
    """The model with its weight of four floats in another file."""
    model = proto()
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(np.arange(1, 6, dtype=np.float32).tobytes())
    return path


def test_external_weights_stay_in_their_file(tmp_path: Path, weights: Path) -> None:
    module = from_onnx(save(tmp_path / "model.onnx", external(weights.name, offset=4)))
    tensor = module.graph.initializers["w"].const_value
    assert isinstance(tensor, onnx_ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), [2, 3, 4, 5])


def test_external_weights_are_found_from_any_working_directory(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "model.onnx", external(weights.name))
    monkeypatch.chdir(tmp_path)
    module = from_onnx("model.onnx")
    monkeypatch.chdir("/")
    tensor = module.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), [1, 2, 3, 4])


def test_weights_larger_than_a_protobuf_are_converted_without_being_read(tmp_path: Path) -> None:
    rows = 3 * 2**28
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(4 * rows)  # takes no room on disk
    text = """
    <ir_version: 8, opset_import: ["" : 11]>
    g (int64[B, S] ids, float[1] w) => (float[B] y)
    {
        v = Gather (w, ids)
        y = ReduceSum <axes = [1], keepdims = 0> (v)
    }
    """
    model = proto(text)
    del model.graph.input[1]
    model.graph.initializer.extend(external("huge.bin", length=4 * rows).graph.initializer)
    model.graph.initializer[0].dims[:] = [rows]
    module = from_onnx(save(tmp_path / "model.onnx", model))
    assert module.opset == 23
    tensor = module.graph.initializers["w"].const_value
    assert isinstance(tensor, onnx_ir.ExternalTensor)
    assert tensor.nbytes == 4 * rows


def test_external_files_that_cannot_give_the_weights_are_refused(
    tmp_path: Path, weights: Path
) -> None:
    path = tmp_path / "model.onnx"
    assert "is missing" in refusal(save(path, external("nowhere.bin")))
    assert "bytes 8 to 24 are needed, it has 20" in refusal(
        save(path, external(weights.name, offset=8))
    )
    assert "is to give 12 bytes, the tensor's shape needs 16" in refusal(
        save(path, external(weights.name, length=12))
    )
    (tmp_path / "folder").mkdir()
    assert "no regular file" in refusal(save(path, external("folder")))


def test_external_files_outside_the_model_are_refused(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "model.onnx"
    assert "lies outside" in refusal(save(path, external("../weights.bin")))
    assert "not a path relative" in refusal(save(path, external(str(weights))))
    (folder / "link.bin").symlink_to(weights)
    assert "lies outside" in refusal(save(path, external("link.bin")))
    os.link(weights, folder / "hard.bin")
    assert "hard links" in refusal(save(path, external("hard.bin")))


def test_a_download_cache_that_links_to_both_files_is_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    save(blobs / "1f2e", external("model.onnx_data"))
    (blobs / "9a8b").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (snapshot / "model.onnx").symlink_to("../blobs/1f2e")
    (snapshot / "model.onnx_data").symlink_to("../blobs/9a8b")
    module = from_onnx(snapshot / "model.onnx")
    tensor = module.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), [0, 1, 2, 3])
    assert module.source == "model.onnx"


def test_a_link_to_a_model_does_not_open_other_folders(tmp_path: Path, weights: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    save(blobs / "1f2e", external("model.onnx_data"))
    (snapshot / "model.onnx").symlink_to("../blobs/1f2e")
    (snapshot / "model.onnx_data").symlink_to(weights)
    assert "lies outside" in refusal(snapshot / "model.onnx")


def test_a_weight_in_a_constant_is_checked_too(tmp_path: Path) -> None:
    model = external("nowhere.bin")
    constant = onnx.helper.make_node("Constant", [], ["w"])
    attribute = constant.attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(model.graph.initializer[0])
    nodes = [constant, *model.graph.node]
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert "is missing" in refusal(save(tmp_path / "model.onnx", model))


def test_a_tensor_with_two_sets_of_values_is_refused() -> None:
    model = proto()
    model.graph.initializer[0].raw_data = np.zeros(4, np.float32).tobytes()
    assert "carries its values 2 times (float_data, raw_data)" in refusal(model)


def test_a_tensor_with_values_here_and_elsewhere_is_refused(tmp_path: Path, weights: Path) -> None:
    model = external(weights.name)
    model.graph.initializer[0].float_data.extend([1, 2, 3, 4])
    message = refusal(save(tmp_path / "model.onnx", model))
    assert "(float_data, external_data)" in message


def test_ambiguous_tensors_inside_functions_are_found() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18, "local" : 1]>
    g (float[B] x) => (float[B] y) { y = local.f (x) }
    <domain: "local", opset_import: ["" : 18]>
    f (x) => (y) {
        c = Constant <value = float {1}> ()
        y = Add (x, c)
    }
    """
    model = proto(text)
    model.functions[0].node[0].attribute[0].t.raw_data = np.float32(2).tobytes()
    assert "carries its values 2 times" in refusal(model)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("float_data", [1.0, 2.0], "has 2 numbers of data, its shape needs 4"),
        ("raw_data", b"12", "has 2 bytes of data, its shape needs 16"),
        ("float_data", [], "has 0 bytes of data, its shape needs 16"),
    ],
)
def test_a_tensor_with_too_little_data_is_refused(
    field: str, values: bytes | list[float], message: str
) -> None:
    model = proto()
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    if isinstance(values, bytes):
        weight.raw_data = values
    else:
        weight.float_data.extend(values)
    assert message in refusal(model)


def test_tensors_of_nonsense_are_refused() -> None:
    model = proto()
    model.graph.initializer[0].data_type = 777
    assert "unknown dtype 777" in refusal(model)
    model = proto()
    model.graph.initializer[0].dims[0] = -4
    assert "negative size" in refusal(model)


def test_sparse_weights_are_refused_by_name() -> None:
    model = proto()
    sparse = model.graph.sparse_initializer.add()
    sparse.values.name = "thin"
    assert "'thin'" in refusal(model)


def nested_ifs(depth: int) -> onnx.ModelProto:
    condition = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.BOOL, [])
    nodes = [onnx.helper.make_node("Identity", ["c"], ["y"])]
    for _ in range(depth):
        branch = onnx.helper.make_graph(nodes, "branch", [], [output])
        node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        nodes = [node]
    graph = onnx.helper.make_graph(nodes, "g", [condition], [output])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])


def test_nesting_has_a_limit() -> None:
    assert from_onnx(nested_ifs(2)).opset == 23
    deep = onnx.helper.make_node("Identity", ["c"], ["y"])
    for _ in range(30):
        node = onnx.NodeProto(op_type="If", input=["c"], output=["y"])
        attribute = node.attribute.add()
        attribute.name, attribute.type = "then_branch", onnx.AttributeProto.GRAPH
        attribute.g.node.append(deep)
        deep = node
    model = proto()
    model.graph.node.append(deep)
    assert "nested deeper than 24 levels" in refusal(model)


def chain(length: int, last: str) -> onnx.ModelProto:
    functions = "\n".join(
        f'<domain: "local", opset_import: ["" : 18, "local" : 1]> f{index} (x) => (y) '
        f"{{ y = {f'local.f{index + 1}' if index < length - 1 else last} (x) }}"
        for index in range(length)
    )
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "local" : 1]>'
        f"g (float[B] x) => (float[B] y) {{ y = local.f0 (x) }} {functions}"
    )


def test_functions_call_functions_to_a_limit_and_not_themselves() -> None:
    assert [node.op_type for node in from_onnx(chain(3, "Neg")).nodes()] == ["Neg"]
    assert "deeper than 64 levels" in refusal(chain(65, "Neg"))
    assert "functions call themselves: f0 -> f1 -> f0" in refusal(chain(2, "local.f0"))


def test_a_text_model_is_checked_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_text(TEXT.replace("float[4] w = {1, 2, 3, 4}", "float[4] w = {1, 2}"))
    with pytest.raises(ModelRejectedError, match="its shape needs 4"):
        from_onnx(path)


@pytest.mark.parametrize("name", ["valug", None])
def test_a_constant_without_its_value_is_refused(name: str | None) -> None:
    """Found by fuzzing."""
    model = proto()
    node = model.graph.node.add(op_type="Constant", output=["c"])
    if name is not None:
        node.attribute.add(name=name, type=onnx.AttributeProto.INT, i=3)
    with pytest.raises(ModelRejectedError, match="one attribute is expected that holds the value"):
        from_onnx(model)


def test_a_location_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Found by fuzzing."""
    data = external("weights.bin").SerializeToString().replace(b"weights.bin", b"\xff\xfeights.bin")
    (tmp_path / "model.onnx").write_bytes(data)
    assert "is no text" in refusal(tmp_path / "model.onnx")
