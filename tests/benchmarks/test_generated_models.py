"""Random Transformer blocks through the default passes; ``make generated`` runs 2,000."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from benchmarks import generated_models
from benchmarks.float64_judge import differs_by_rounding
from benchmarks.generated_blocks import CHOICES, Block, block_of, build
from benchmarks.generated_models import Finding, check
from dechaff.backends import Session
from dechaff.input_generation import generate_inputs
from dechaff.model_import import import_model

BLOCKS = st.builds(Block, **{name: st.sampled_from(values) for name, values in CHOICES.items()})


@settings(max_examples=100, deadline=None, derandomize=True)
@given(block=BLOCKS)
def test_a_generated_block_keeps_its_answers(block: Block) -> None:
    found = check(block)
    assert found.problem is None
    assert found.attentions == block.layers


def test_a_mismatch_is_told_and_what_is_known_is_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checked: list[Block] = []

    def pretend(block: Block) -> Finding:
        checked.append(block)
        return Finding(2, True, "differs" if block == block_of(1) else None)

    monkeypatch.setattr(generated_models, "check", pretend)
    arguments = ["--count", "2", "--results", str(tmp_path / "seeds.jsonl")]
    assert generated_models.main(arguments) == 1
    assert generated_models.main(arguments) == 1
    assert checked == [block_of(0), block_of(1)]
    assert "seed 1: Block(" in capsys.readouterr().out


ROUNDED = dataclasses.replace(block_of(0), mask="added, small", causal=True, result="mean")


def test_rounding_is_told_from_a_fault() -> None:
    """Rows that see nothing but -10000 round their scores; another scale is another function."""
    inputs = generate_inputs(import_model(build(ROUNDED)))
    original = build(ROUNDED)
    session = Session(import_model(original))
    results = [session.run(case.inputs) for case in inputs]
    moved = [{"y": array["y"] + np.float32(2e-5)} for array in results]
    cases = [case.inputs for case in inputs]
    assert differs_by_rounding(original, original, cases, [results, moved])
    far = [{"y": array["y"] + np.float32(2e-2)} for array in results]
    assert not differs_by_rounding(original, original, cases, [results, far])
    wrong = build(ROUNDED)
    weight = next(w for w in wrong.graph.initializer if w.data_type == 1 and len(w.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.001, weight.name))
    assert not differs_by_rounding(original, wrong, cases, [results, results])
