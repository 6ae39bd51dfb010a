from __future__ import annotations

import concurrent.futures
import pathlib

import numpy as np
import onnx_ir as ir
import pytest
import torch

import dechaff
from dechaff import InputRejectedError, ModelRejectedError, OptimizedModel, UsageError
from dechaff.ir import ValidPositions, parse

from .examples import ZeroPadding, linear, masked_encoder

_IDS = np.array([[1, 2, 3], [4, 5, 6]])
_MASK = np.array([[1, 1, 0], [1, 0, 0]])


_NEEDS_GELU = """
<ir_version: 10, opset_import: ["" : 23]>
activation (float[B,4] x) => (float[B,4] y) { y = Gelu (x) }
"""


def _encoder() -> OptimizedModel:
    return OptimizedModel(masked_encoder())


def _expected() -> np.ndarray:
    return _encoder().run({"input_ids": _IDS, "attention_mask": _MASK})["hidden"]


def test_arrays_may_be_given_by_name_by_position_or_as_one_mapping() -> None:
    model = _encoder()
    for results in (
        model(input_ids=_IDS, attention_mask=_MASK),
        model(_IDS, _MASK),
        model(_IDS, attention_mask=_MASK),
        model({"input_ids": _IDS, "attention_mask": _MASK}),
    ):
        assert list(results) == ["hidden"]
        assert np.array_equal(results["hidden"], _expected())


def test_tensors_in_give_tensors_out() -> None:
    hidden = _encoder()(torch.from_numpy(_IDS), torch.from_numpy(_MASK))["hidden"]
    assert isinstance(hidden, torch.Tensor)
    assert np.array_equal(hidden.numpy(), _expected())


def test_only_the_outputs_asked_for_are_computed() -> None:
    inputs = {"input_ids": _IDS, "attention_mask": _MASK}
    assert list(_encoder().run(inputs, ["hidden"])) == ["hidden"]
    with pytest.raises(InputRejectedError, match="no output 'logits'; the model gives hidden"):
        _encoder().run(inputs, ["logits"])


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.bool_])
def test_integers_and_bools_are_cast_where_no_value_changes(dtype: type) -> None:
    hidden = _encoder().run({"input_ids": _IDS, "attention_mask": _MASK.astype(dtype)})["hidden"]
    assert np.array_equal(hidden, _expected())


def test_a_bool_mask_input_takes_zeros_and_ones_and_no_other_integer() -> None:
    module = masked_encoder()
    module.graph.inputs[1].dtype = ir.DataType.BOOL
    model = OptimizedModel(module)
    hidden = model.run({"input_ids": _IDS, "attention_mask": _MASK})["hidden"]
    assert np.array_equal(hidden, _expected())
    with pytest.raises(InputRejectedError, match="expected bool"):
        model.run({"input_ids": _IDS, "attention_mask": 2 * _MASK})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": _IDS}, "missing input 'attention_mask'"),
        ({"input_ids": _IDS, "mask": _MASK, "attention_mask": _MASK}, "unknown input 'mask'"),
        ({"input_ids": _IDS[0], "attention_mask": _MASK}, r"expected int64\[B,S\], got rank 1"),
        ({"input_ids": _IDS * 1.0, "attention_mask": _MASK}, "got dtype double; convert it to int"),
        ({"input_ids": _IDS, "attention_mask": _MASK[:1]}, r"with B = 2 as in 'input_ids'"),
        ({"input_ids": _IDS, "attention_mask": [[1], [1, 2]]}, "an input is not an array"),
        ({"input_ids": _IDS, "attention_mask": None}, "an input is not an array"),
    ],
)
def test_inputs_that_do_not_fit_are_rejected_in_one_line(
    inputs: dict[str, object], message: str
) -> None:
    with pytest.raises(InputRejectedError, match=message) as caught:
        _encoder().run(inputs)
    assert "\n" not in str(caught.value)


def test_a_fixed_size_is_checked() -> None:
    with pytest.raises(InputRejectedError, match=r"float\[B,4\], got size 3 at axis 1"):
        OptimizedModel(linear()).run({"x": np.ones((2, 3), dtype=np.float32)})


def test_too_many_or_repeated_arguments_are_rejected() -> None:
    with pytest.raises(InputRejectedError, match="got 3 inputs; the model takes input_ids"):
        _encoder()(_IDS, _MASK, _MASK)
    with pytest.raises(InputRejectedError, match="input 'input_ids' is given twice"):
        _encoder()(_IDS, input_ids=_IDS)


def test_threads_may_share_a_model() -> None:
    model = _encoder()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: model(_IDS, _MASK)["hidden"], range(16)))
    assert all(np.array_equal(result, _expected()) for result in results)


@pytest.mark.parametrize("external_data", [None, True])
def test_a_saved_model_loads_and_gives_the_same(
    tmp_path: pathlib.Path, external_data: bool | None
) -> None:
    module = masked_encoder()
    weight = np.tile(np.eye(4, dtype=np.float32), (1, 200))
    module.graph.initializers["weight"].const_value = ir.tensor(weight)
    module.graph.initializers["weight"].shape = ir.Shape(weight.shape)
    module.graph.outputs[0].shape = ir.Shape(["B", "S", 800])
    model = OptimizedModel(module)
    path = tmp_path / "model.onnx"
    model.save(path, external_data=external_data)
    expected = sorted(item.name for item in tmp_path.iterdir())
    assert expected[0] == "model.onnx"
    assert len(expected) == (2 if external_data else 1)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in expected:
        (tmp_path / name).rename(moved / name)
    loaded = dechaff.load(moved / "model.onnx")
    assert np.array_equal(loaded(_IDS, _MASK)["hidden"], model(_IDS, _MASK)["hidden"])


def test_saving_records_passes_target_and_valid_positions(tmp_path: pathlib.Path) -> None:
    optimized = dechaff.optimize(
        masked_encoder().model, passes=[ZeroPadding()], target="portable", progress=False
    )
    optimized.save(tmp_path / "model.onnx")
    properties = ir.load(tmp_path / "model.onnx").metadata_props
    assert properties["dechaff.version"] == dechaff.__version__
    assert properties["dechaff.passes"] == "zero-padding"
    assert properties["dechaff.target"] == "portable"
    loaded = dechaff.load(tmp_path / "model.onnx")
    assert loaded.module.valid_positions == [ValidPositions("hidden", "attention_mask")]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("the old file")

    def fail(model: ir.Model, place: pathlib.Path) -> None:
        place.write_text("half of the new")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ir, "save", fail)
    with pytest.raises(UsageError, match="No space left on device"):
        _encoder().save(path)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_text() == "the old file"


def test_saving_over_the_weights_that_the_model_reads_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(masked_encoder().model, path, external_data="model.onnx.data", size_threshold_bytes=0)
    weights = tmp_path / "model.onnx.data"
    data = weights.read_bytes()
    with pytest.raises(UsageError, match=r"model\.onnx\.data: it holds weights that this model"):
        dechaff.load(path).save(weights)
    assert weights.read_bytes() == data


def test_saving_into_a_folder_that_does_not_exist_is_a_usage_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        _encoder().save(tmp_path / "missing" / "model.onnx")


def test_loading_what_is_no_model_is_rejected(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelRejectedError, match="no such file"):
        dechaff.load(path)
    path.write_text("no model")
    with pytest.raises(ModelRejectedError, match="not an ONNX model"):
        dechaff.load(path)


def test_damaged_metadata_is_rejected(tmp_path: pathlib.Path) -> None:
    module = masked_encoder()
    module.model.metadata_props["dechaff.valid_positions"] = '[["hidden"]]'
    ir.save(module.model, tmp_path / "model.onnx")
    with pytest.raises(ModelRejectedError, match=r"dechaff\.valid_positions is damaged"):
        dechaff.load(tmp_path / "model.onnx")


def test_a_newer_opset_is_converted_to_and_gives_the_same(tmp_path: pathlib.Path) -> None:
    _encoder().save(tmp_path / "model.onnx", opset=24)
    loaded = dechaff.load(tmp_path / "model.onnx")
    assert loaded.module.opset == 24
    assert np.array_equal(loaded(_IDS, _MASK)["hidden"], _expected())


def test_an_older_opset_is_written_where_every_operator_meant_the_same(
    tmp_path: pathlib.Path,
) -> None:
    _encoder().save(tmp_path / "model.onnx", opset=18)
    loaded = dechaff.load(tmp_path / "model.onnx")
    assert loaded.module.opset == 18
    assert np.array_equal(loaded(_IDS, _MASK)["hidden"], _expected())


def test_an_opset_below_what_an_operator_needs_names_the_operator(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="optimized graph needs opset 20 for Gelu"):
        OptimizedModel(parse(_NEEDS_GELU)).save(tmp_path / "model.onnx", opset=18)
    assert not list(tmp_path.iterdir())


def test_an_opset_that_does_not_exist_is_a_usage_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="opset 23 to 999"):
        _encoder().save(tmp_path / "model.onnx", opset=999)


def test_session_settings_reach_the_runtime(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[int] = []
    monkeypatch.setattr(
        dechaff.SessionSettings, "apply_to", lambda self, options: applied.append(self.num_threads)
    )
    _encoder().save(tmp_path / "model.onnx")
    session = dechaff.SessionSettings(threads=3)
    inputs = {"input_ids": _IDS, "attention_mask": _MASK}
    dechaff.load(tmp_path / "model.onnx", session=session).run(inputs)
    assert applied == [3]
    dechaff.optimize(tmp_path / "model.onnx", session=session, progress=False).run(inputs)
    assert set(applied) == {3}
