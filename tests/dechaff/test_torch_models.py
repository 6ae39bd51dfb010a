"""A model from torch, from the call to the file: the original's interface is kept."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
import transformers

import dechaff
from dechaff import InputRejectedError, OptimizedModel

_IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 1], [2, 3, 4, 5, 6]])
_MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=20,
    )
    model: torch.nn.Module = transformers.BertModel(config)
    return model.eval()


@pytest.fixture(scope="module")
def optimized(original: torch.nn.Module) -> OptimizedModel:
    example = {"input_ids": _IDS, "attention_mask": _MASK}
    return dechaff.optimize(original, example, progress=False)


def test_the_optimized_model_is_called_like_the_original(
    original: torch.nn.Module, optimized: OptimizedModel
) -> None:
    with torch.no_grad():
        expected = original(input_ids=_IDS, attention_mask=_MASK)
    given = optimized(input_ids=_IDS, attention_mask=_MASK)
    assert type(given) is type(expected)
    valid = _MASK != 0
    torch.testing.assert_close(
        given.last_hidden_state[valid], expected.last_hidden_state[valid], rtol=1e-5, atol=1e-5
    )


def test_padding_is_removed_and_verified(optimized: OptimizedModel) -> None:
    report = optimized.report
    assert report is not None
    assert report.verification.verified
    changed = [record.name for record in report.records if record.changed]
    assert "remove-padding" in changed
    hidden = optimized(input_ids=_IDS, attention_mask=_MASK).last_hidden_state
    assert (hidden[_MASK == 0] == 0).all()


def test_other_sizes_than_the_examples_run(optimized: OptimizedModel) -> None:
    hidden = optimized(input_ids=_IDS[:2, :3], attention_mask=_MASK[:2, :3]).last_hidden_state
    assert hidden.shape == (2, 3, 16)


def test_arguments_that_do_not_fit_are_rejected(optimized: OptimizedModel) -> None:
    with pytest.raises(InputRejectedError, match="attention_mask"):
        optimized(input_ids=_IDS)


def test_named_arrays_run_without_torch_in_between(optimized: OptimizedModel) -> None:
    arrays = optimized.run({"input_ids": _IDS.numpy(), "attention_mask": _MASK.numpy()})
    tensors = optimized(input_ids=_IDS, attention_mask=_MASK)
    assert np.array_equal(arrays["last_hidden_state"], tensors.last_hidden_state.numpy())


def test_the_saved_model_gives_the_same_numbers(
    optimized: OptimizedModel, tmp_path: pathlib.Path
) -> None:
    optimized.save(tmp_path / "bert.onnx")
    results = dechaff.load(tmp_path / "bert.onnx")(input_ids=_IDS, attention_mask=_MASK)
    expected = optimized(input_ids=_IDS, attention_mask=_MASK).last_hidden_state
    assert torch.equal(results["last_hidden_state"], expected)
