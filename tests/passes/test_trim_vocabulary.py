from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

import dechaff
from dechaff.calibration import Calibration, load_calibration
from dechaff.ir import Module, UsageError
from dechaff.passes import PassContext, PassRecord, apply_pass
from dechaff.passes.trim_vocabulary import TrimVocabulary, TrimVocabularyOptions
from tests.model_runner import run_module
from tests.passes.rewrite_checks import check_declines, module_from, run_pass

SIZE, WIDTH, KEPT = 200, 32, (0, 3, 5, 7, 11, 100, *range(120, 190), 199)
RNG = np.random.default_rng(7)
IDS = RNG.choice(np.array(KEPT), (3, 5)).astype(np.int64)
STEP = TrimVocabulary(TrimVocabularyOptions("0+3+5-5+7+11+100+120-189+199", unknown=0))


def model(body: str, result: str = "float[B,S,200] y", more: str = "") -> str:
    return (
        f"g (int64[B,S] ids) => ({result})\n<float[200,32] table = {{...}}, "
        "float[32,200] head = {...}, float[200] bias = {...}, float[32,32] w = {...}"
        f"{more}> {{ e = Gather (table, ids)\n h = Relu (e)\n {body} }}"
    )


LOGITS = {
    "tied": "t = Transpose <perm = [1, 0]> (table)\n y = MatMul (h, t)",
    "separate": "y = MatMul (h, head)",
    "biased": "p = MatMul (h, head)\n y = Add (p, bias)",
    "bias first": "p = MatMul (h, head)\n y = Add (bias, p)",
    "soft cap": "p = MatMul (h, head)\n d = Div (p, two)\n t = Tanh (d)\n y = Mul (two, t)",
}
TWO = ", float[1] two = {2}"


@pytest.mark.parametrize("body", LOGITS.values(), ids=LOGITS.keys())
def test_logits_of_kept_tokens_are_the_same_bits(body: str) -> None:
    before = module_from(model(body, more=TWO))
    after, record = run_pass(STEP, before)
    assert record.changed
    check_kept(before, after)
    assert {v.shape[-1] for v in after.graph.outputs if v.shape is not None} == {len(KEPT)}
    sizes = [
        v.const_value.shape.numpy() for v in after.graph.initializers.values() if v.const_value
    ]
    assert not any(SIZE in size and WIDTH in size for size in sizes)


def test_a_flattened_tied_projection_by_gemm() -> None:
    text = """
        g (int64[T] ids) => (float[T,200] y)
            <float[200,32] table = {...}, float[200] bias = {...}> {
            e = Gather (table, ids)
            y = Gemm <transB = 1> (e, table, bias)
        }"""
    before = module_from(text)
    after, _ = run_pass(STEP, before)
    assert after.vocabulary is not None
    expected = run_module(before, {"ids": IDS[0]})["y"][:, list(KEPT)]
    assert run_module(after, {"ids": IDS[0]})["y"].tobytes() == expected.tobytes()
    assert sum(v.name == "table_kept" for v in after.graph.initializers.values()) == 1


def test_ids_that_are_computed_with_keep_their_meaning() -> None:
    body = "m = Equal (ids, seven)\n y = Cast <to = 1> (m)\n a = ReduceSum (e, last)"
    text = model(body, "float[B,S] y, float[B,S,1] a", ", int64 seven = {7}, int64[1] last = {2}")
    check_kept(module_from(text), run_pass(STEP, module_from(text))[0])


def test_tokens_that_went_read_the_unknown_token() -> None:
    before = module_from(model("y = MatMul (h, w)", "float[B,S,32] y"))
    after, _ = run_pass(TrimVocabulary(TrimVocabularyOptions("5-9", unknown=7)), before)
    found = run_module(after, {"ids": np.array([[1, 5, 7, 199, -1]])})["y"]
    expected = run_module(before, {"ids": np.array([[7, 5, 7, 7, 7]])})["y"]
    assert found.tobytes() == expected.tobytes()


def test_what_the_data_and_the_tokenizer_name_is_kept() -> None:
    before = module_from(model("y = MatMul (h, w)", "float[B,S,32] y"))
    data = Calibration([{"ids": np.array([[8, 8, -1]])}, {"ids": np.array([[2]])}], "test")
    step = TrimVocabulary(TrimVocabularyOptions("4", unknown=1))
    after, record = trimmed(step, before, data)
    assert after.vocabulary is not None
    assert after.vocabulary.kept == (1, 2, 4, 8, 199)
    assert after.vocabulary.inputs == ("ids",)
    assert "5 of 200 tokens" in record.notes[0]
    assert before.vocabulary is None


def test_all_tokens_kept_is_the_same_model() -> None:
    step = TrimVocabulary(TrimVocabularyOptions("0-199", unknown=0))
    _, record = run_pass(step, module_from(model(LOGITS["tied"])))
    assert not record.changed
    assert "all 200 tokens are kept" in record.notes[0]


def test_it_is_done_once() -> None:
    once, _ = run_pass(STEP, module_from(model(LOGITS["tied"])))
    _, record = run_pass(STEP, once)
    assert not record.changed
    assert "trimmed already" in record.notes[0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("p = MatMul (h, head)\n y = Softmax (p)", "Softmax over all tokens"),
        ("t = Transpose <perm = [1, 0]> (table)\n p = MatMul (h, t)\n y = Relu (p)", "logits"),
        ("s = ReduceSum <keepdims = 0> (table, first)\n z = MatMul (h, w)\n p = Add (z, s)\n"
         "y = MatMul (p, head)", "as a whole"),
        ("f = Gather (other, ids)\n p = Add (h, f)\n y = MatMul (p, head)", "say table="),
    ],
)  # fmt: skip
def test_each_condition_alone_stops_it(body: str, reason: str) -> None:
    more = ", float[200,32] other = {...}, int64[1] first = {0}"
    check_declines(STEP, model(body, more=more), reason)


def test_a_table_can_be_chosen() -> None:
    text = model(
        "f = Gather (other, ids)\n y = Add (h, f)",
        "float[B,S,32] y",
        ", float[200,32] other = {...}",
    )
    before = module_from(text)
    after, _ = run_pass(
        TrimVocabulary(TrimVocabularyOptions(STEP.options.keep, 0, "other")), before
    )
    assert "table" in after.graph.initializers
    check_kept(before, after)


def test_a_graph_without_token_ids_is_left_alone() -> None:
    text = "g (float[T,4] x) => (float[T,4] y) <float[4,4] w = {...}> { y = MatMul (x, w) }"
    _, record = run_pass(STEP, module_from(text))
    assert not record.changed
    assert "no constant table" in record.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs calibration data"),
        ({"keep": "3"}, "which token stands for those that go"),
        ({"keep": "3", "unknown": 200}, "no token 200"),
    ],
)
def test_what_is_missing_is_told(options: dict[str, object], message: str) -> None:
    step = TrimVocabulary(TrimVocabularyOptions(**options))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        apply_pass(module_from(model(LOGITS["tied"])), step)


@pytest.mark.parametrize("keep", ["9-3", "a", "1,2", "-4"])
def test_options_are_checked(keep: str) -> None:
    with pytest.raises(ValueError, match="keep expects ids"):
        TrimVocabularyOptions(keep)


@pytest.mark.parametrize("verify", ["final", "each"])
def test_the_map_is_written_beside_a_model_that_is_smaller(
    tmp_path: pathlib.Path, verify: str
) -> None:
    before = module_from(model(LOGITS["biased"]))
    result = dechaff.optimize(
        before.model, passes=[f"default,{STEP}"], verify=verify, cache=False, progress=False
    )
    assert result.report is not None
    (figures,) = result.report.verification.outputs
    assert figures.problem is None
    assert figures.max_abs_error < 1e-5  # on kept tokens and their columns
    result.save(tmp_path / "small.onnx")
    data = json.loads((tmp_path / "small.onnx.vocabulary.json").read_text())
    assert data["new_ids"] == {str(old): new for new, old in enumerate(KEPT)}
    assert data["unknown"] == {"old": 0, "new": 0}
    assert data["outputs"] == ["y"]
    weights = 4 * SIZE * (2 * WIDTH + 1)
    saved = weights - (tmp_path / "small.onnx").stat().st_size
    assert saved > 0.4 * weights
    found = dechaff.load(tmp_path / "small.onnx").run({"ids": IDS})["y"]
    expected = run_module(before, {"ids": IDS})["y"][..., list(KEPT)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_every_line_of_a_text_counts(tmp_path: pathlib.Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "[CLS]": 1, "a": 2, "b": 3, "c": 4, "d": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[CLS]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "corpus.txt").write_text("a\n" * 6000 + "d\n")
    before = module_from(model("y = MatMul (h, w)", "float[B,S,32] y"))
    data = load_calibration(before, tmp_path / "corpus.txt", tmp_path / "tokenizer.json")
    after, _ = trimmed(TrimVocabulary(), before, data)
    assert after.vocabulary is not None
    assert (after.vocabulary.kept, after.vocabulary.unknown) == ((0, 1, 2, 5), 0)


def trimmed(step: TrimVocabulary, before: Module, data: Calibration) -> tuple[Module, PassRecord]:
    return run_pass(step, before, PassContext(data))


def check_kept(before: Module, after: Module) -> None:
    """All outputs are the same bits, those over tokens in the columns kept."""
    assert after.vocabulary is not None
    expected = after.vocabulary.columns(run_module(before, {"ids": IDS}))
    found = run_module(after, {"ids": IDS})
    for name in expected:
        assert found[name].shape == expected[name].shape
        assert found[name].tobytes() == expected[name].tobytes()
