"""Random Transformer blocks through the default passes; ``make generated`` runs 2,000."""

from __future__ import annotations

import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import generated_models
from benchmarks.generated_blocks import CHOICES, Block, block_of
from benchmarks.generated_models import Finding, check

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
