from __future__ import annotations

import pathlib

import pytest

from benchmarks.coverage import __main__ as coverage
from benchmarks.coverage.checking import Outcome, check
from benchmarks.coverage.families import FAMILIES, SUBSET

BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize("name", SUBSET)
def test_a_family_of_each_kind_is_found_and_verified(name: str, tmp_path: pathlib.Path) -> None:
    family = BY_NAME[name]
    outcome = check(family, "torch", tmp_path)
    assert outcome.captured
    assert outcome.verified, outcome.reason
    assert outcome.attentions == family.attentions
    assert (outcome.packed_nodes > 0) == (family.kind != "vision")


def test_a_file_is_found_and_verified(tmp_path: pathlib.Path) -> None:
    outcome = check(BY_NAME["DistilBERT"], "onnx18", tmp_path)
    assert outcome.verified, outcome.reason
    assert outcome.packed_attentions == outcome.attentions == outcome.expected


def test_what_is_known_is_not_checked_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[tuple[str, str]] = []

    def pretend(family: object, door: str, folder: pathlib.Path, speed: bool) -> Outcome:
        name = getattr(family, "name", "")
        checked.append((name, door))
        return Outcome(
            name, door, True, 2, 2, 40, 2, door == "torch", "" if door == "torch" else "no"
        )

    monkeypatch.setattr(coverage, "check", pretend)
    files = ["--results", str(tmp_path / "r.jsonl"), "--page", str(tmp_path / "p.md")]
    assert coverage.main([*files, "--families", "BERT", "--doors", "torch"]) == 0
    assert coverage.main([*files, "--families", "BERT", "--doors", "torch,onnx18"]) == 1
    assert checked == [("BERT", "torch"), ("BERT", "onnx18")]
    page = (tmp_path / "p.md").read_text()
    assert "| BERT | torch | yes | 2 of 2 | 40 ops (2) | yes |  |  |" in page
    assert "| BERT | onnx18 | yes | 2 of 2 | 40 ops (2) | **no** |  | no |" in page


def test_family_names_are_unique() -> None:
    assert len(BY_NAME) == len(FAMILIES)
    assert set(SUBSET) <= set(BY_NAME)


def test_every_family_can_be_named_on_the_command_line() -> None:
    assert not [name for name in BY_NAME if "," in name]
