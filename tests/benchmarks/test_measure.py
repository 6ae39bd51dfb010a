from __future__ import annotations

import time

import pytest

from benchmarks.measure import OthersShare, median_ratio, peak_resident_bytes, time_interleaved


def test_contestants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measure._TURN_SECONDS", 0)
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = time_interleaved(runs, rounds=2, warm_up=1)
    assert "".join(calls) == "abcabcabc"
    assert [len(seconds) for seconds in timings.values()] == [2, 2, 2]


def test_a_turn_is_divided_by_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measure._TURN_SECONDS", 0.05)
    timings = time_interleaved({"nap": lambda: time.sleep(0.01)}, rounds=1, warm_up=0)
    assert 0.01 <= timings["nap"][0] < 0.05


def test_ratios_are_taken_within_a_round() -> None:
    # The machine slows down tenfold; the ratio of medians would say 4 / 2.
    timings = {"peer": [2.0, 20.0, 4.0], "own": [1.0, 10.0, 2.0]}
    assert median_ratio(timings, "peer", "own") == 2
    uneven = {"peer": [3.0, 10.0, 40.0], "own": [1.0, 10.0, 20.0]}
    assert median_ratio(uneven, "peer", "own") == 2


def test_peak_memory_is_that_of_a_process_with_numpy() -> None:
    assert 10 * 2**20 < peak_resident_bytes() < 2**40


def test_what_this_process_computes_is_not_others_work() -> None:
    with OthersShare() as others:
        sum(range(3_000_000))
    assert 0 <= others.share <= 1
