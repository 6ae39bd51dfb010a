"""Calibration data: where it may come from, what is wrong with bad data, the walk through it."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from dechaff.calibration import load_calibration
from dechaff.ir import InputRejectedError, Module, UsageError
from tests.passes.rewrite_checks import module_from

SENTENCES = """g (int64[B,S] input_ids, int64[B,S] attention_mask, int64[B,S] token_type_ids)
    => (float[B,S,2] y) <float[9,2] table = {...}, float[2,2] types = {...}>
    {
        words = Gather (table, input_ids)
        kinds = Gather (types, token_type_ids)
        both = Add (words, kinds)
        mask = Cast <to = 1> (attention_mask)
        last = Constant <value = int64[1] {-1}> ()
        column = Unsqueeze (mask, last)
        y = Mul (both, column)
    }"""
CHAIN = """g (float[T,2] x) => (float[T,2] y) <float[2,2] w = {...}, float[2,2] v = {...}>
    {
        a = MatMul (x, w)
        r = Relu (a)
        c = MatMul (r, v)
        y = Add (c, x)
    }"""


@pytest.fixture
def chain() -> Module:
    return module_from(CHAIN)


def batch(rows: int = 3) -> dict[str, Any]:
    return {"x": np.random.default_rng(rows).standard_normal((rows, 2)).astype(np.float32)}


def test_batches_may_come_from_a_generator(chain: Module) -> None:
    assert load_calibration(chain, (batch(n) for n in (1, 2))).num_samples == 3


def test_batches_may_come_from_a_folder_or_a_file(chain: Module, tmp_path: pathlib.Path) -> None:
    for rows in (1, 2):
        np.savez(tmp_path / f"{rows}.npz", **batch(rows))
    assert load_calibration(chain, tmp_path).num_samples == 3
    assert load_calibration(chain, tmp_path / "2.npz").num_samples == 2


def test_text_is_made_into_ids_masks_and_types(tmp_path: pathlib.Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "a": 1, "b": 2, "c": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("a b c\n\nc\n", encoding="utf-8")
    found = load_calibration(
        module_from(SENTENCES), tmp_path / "text.txt", tmp_path / "tokenizer.json"
    )
    (only,) = found.batches
    assert only["input_ids"].tolist() == [[1, 2, 3], [3, 0, 0]]
    assert only["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert not only["token_type_ids"].any()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([{"z": [[1.0, 2.0]]}], InputRejectedError, "batch 0: .* unknown input 'z'"),
        ([{"x": [[1.0, float("nan")]]}], InputRejectedError, "'x' holds NaN or infinity"),
        ([{"x": [[1.0, 2.0, 3.0]]}], InputRejectedError, "got size 3 at axis 1"),
        ([], UsageError, "the calibration data is empty"),
        ([{"x": np.zeros((0, 2), np.float32)}], UsageError, "the calibration data is empty"),
        ([[1.0, 2.0]], UsageError, "expected a mapping from input names to arrays, got list"),
    ],
)
def test_bad_data_is_refused_with_what_is_wrong(
    chain: Module, data: Any, error: type[Exception], message: str
) -> None:
    data = [
        {k: np.asarray(v, np.float32) for k, v in b.items()} if isinstance(b, dict) else b
        for b in data
    ]
    with pytest.raises(error, match=message):
        load_calibration(chain, data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file or folder"),
        ("empty", "holds no .npz file"),
        ("text.txt", "needs a tokenizer"),
        ("broken.npz", "not a readable .npz"),
    ],
)
def test_bad_paths_are_refused(
    chain: Module, tmp_path: pathlib.Path, name: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("a\n", encoding="utf-8")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=message):
        load_calibration(chain, tmp_path / name)


def test_a_walk_sees_what_was_edited_ahead_of_it(chain: Module) -> None:
    data = load_calibration(chain, [batch(2), batch(3)])
    walk = data.walk(chain)
    by_name = {value.name: value for node in chain.graph for value in node.outputs}
    weights = {
        n: v.const_value.numpy() for n, v in chain.graph.initializers.items() if v.const_value
    }
    (first, second) = [found["a"] for found in walk.advance([by_name["a"]])]
    np.testing.assert_allclose(first, batch(2)["x"] @ weights["w"], rtol=1e-5)
    by_name["r"].producer().replace_input_with(0, chain.graph.inputs[0])  # type: ignore[union-attr]
    for given, found in zip((batch(2), batch(3)), walk.advance([by_name["y"]]), strict=True):
        expected = np.maximum(given["x"], 0) @ weights["v"] + given["x"]
        np.testing.assert_allclose(found["y"], expected, rtol=1e-5, atol=1e-6)
    assert len(second) == 3
