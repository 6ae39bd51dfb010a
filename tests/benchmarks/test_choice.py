from __future__ import annotations

import time

import pytest

from benchmarks import choice


def test_one_slow_round_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    runs = {"quick": 0, "slow": 0}
    disturbed = 3

    def run(name: str, seconds: float) -> None:
        runs[name] += 1
        clock[0] += 0.9 if (name, runs[name]) == ("quick", disturbed) else seconds

    candidates = {"slow": lambda: run("slow", 0.3), "quick": lambda: run("quick", 0.2)}
    assert choice.fastest(candidates) == "quick"


def test_a_run_of_seconds_tells_after_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    runs: list[str] = []

    def run(name: str, seconds: float) -> None:
        runs.append(name)
        clock[0] += seconds

    candidates = {"a": lambda: run("a", 3.0), "b": lambda: run("b", 2.0)}
    assert choice.fastest(candidates) == "b"
    assert runs == ["a", "b", "a", "b"]
