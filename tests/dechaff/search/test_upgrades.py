"""The order in which edits are made bolder."""

from __future__ import annotations

import pytest

from dechaff.passes import Edit
from dechaff.search.upgrades import Worth, chosen, upgrades


def worth(place: str, name: str, saved: float, harm: float) -> Worth:
    return Worth(Edit(name, 0, lambda options: options, place), saved, harm)


def names(edits: list[Edit]) -> list[str]:
    return [edit.name for edit in edits]


def test_those_that_do_least_harm_for_what_they_save_come_first() -> None:
    a, b = worth("a", "a", 0.1, 0.3), worth("b", "b", 0.2, 0.2)
    assert names(upgrades([a, b])) == ["b", "a"]


def test_what_does_good_comes_before_all() -> None:
    found = upgrades([worth("a", "a", 0.5, 0.001), worth("b", "b", 0.01, -0.001)])
    assert names(found) == ["b", "a"]


@pytest.mark.parametrize(("harm", "expected"), [(0.1, ["half", "all"]), (0.6, ["all"])])
def test_an_alternative_is_left_out_where_the_next_is_the_better_bargain(
    harm: float, expected: list[str]
) -> None:
    found = upgrades([worth("a", "half", 0.5, harm), worth("a", "all", 1.0, 1.0)])
    assert names(found) == expected


def test_what_saves_nothing_is_no_step() -> None:
    assert upgrades([worth("a", "a", 0.0, -1.0)]) == []


def test_the_last_at_each_place_is_chosen() -> None:
    steps = upgrades(
        [worth("a", "half", 0.5, 0.1), worth("b", "b", 0.5, 0.2), worth("a", "all", 1.0, 1.0)]
    )
    assert names(steps) == ["half", "b", "all"]
    assert names(chosen(steps)) == ["all", "b"]
