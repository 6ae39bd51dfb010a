from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.scaling import depth_table, file_lines, layer_spread
from benchmarks.scaling_measurement import export, measure


def figures(seconds: dict[int, float]) -> dict[int, Any]:
    return {
        layers: {
            "steps": {"capture": value},
            "seconds": value,
            "cold_seconds": 2.0,
            "peak_bytes": 2**20,
        }
        for layers, value in seconds.items()
    }


def test_only_deep_models_count_for_the_time_per_layer() -> None:
    assert layer_spread(figures({6: 60, 12: 12, 24: 24, 96: 120})) == pytest.approx(1.25)


@pytest.mark.parametrize(("deep", "met"), [(110.0, True), (400.0, False)])
def test_time_that_grows_faster_than_the_layers_is_missed(deep: float, met: bool) -> None:
    judged, table = depth_table("tiny", figures({12: 12.0, 96: deep}))
    assert judged is met
    assert ("**missed**" in table) is not met
    assert "| ms per layer | 1000 |" in table


def test_what_is_fixed_is_told_from_what_a_layer_adds() -> None:
    _, table = depth_table("tiny", figures({12: 8.0, 24: 14.0, 96: 50.0}))
    assert "2.00 s at any depth and 500 ms for each layer tell these times to within 0 %" in table
    assert "at any depth" not in depth_table("tiny", figures({12: 8.0, 24: 14.0}))[1]


@pytest.mark.parametrize(
    ("verify", "seconds", "peak", "met"),
    [
        ("off", 100.0, 1400, True),
        ("off", 1.0, 1500, False),
        ("final", 19.0, 5000, True),
        ("final", 21.0, 500, False),
    ],
)
def test_a_file_is_judged_by_time_if_verified_else_by_memory(
    verify: str, seconds: float, peak: int, met: bool
) -> None:
    found = {"steps": {"save": seconds}, "seconds": seconds, "peak_bytes": peak}
    judged, text = file_lines("tiny", 1000, verify, found)
    assert judged is met
    assert ("**missed**" in text) is not met


def test_depths_and_files_are_measured(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_this_process(module: str, task: dict[str, Any]) -> Any:
        return export(task) if "export_to" in task else measure(task)

    monkeypatch.setattr(scaling, "run_child", in_this_process)
    options = ["--model", "tiny", "--layers", "1", "--results", str(tmp_path)]
    options += ["--page", str(tmp_path / "page.md")]
    scaling.main([*options, "--files", "--large", "--large-model", "tiny", "--large-layers", "1"])
    measured = json.loads((tmp_path / "scaling.json").read_text())
    assert {"capture", "remove-padding", "lower for cpu"} <= set(measured["1"]["steps"])
    assert measured["1"]["peak_bytes"] > 2**24
    from_files = json.loads((tmp_path / "scaling-files.json").read_text())
    assert {"capture", "remove-padding", "verify", "save"} <= set(from_files["1"]["steps"])
    assert from_files["1"]["steps"]["verify"] > 0
    out = capsys.readouterr().out
    assert "tiny, capture from torch and optimize, seconds" in out
    assert "tiny, from file to file with verification, seconds" in out
    assert "tiny from file to file" in out
    page = (tmp_path / "page.md").read_text()
    assert out.strip() in page
    assert "processor: " in page
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_of_several_runs_of_a_depth_the_fastest_counts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([12.0, 30.0, 15.0, 24.0])
    tried: list[int] = []

    def run(module: str, task: dict[str, Any]) -> Any:
        tried.append(task["layers"])
        return figures({task["layers"]: next(seconds)})[task["layers"]]

    monkeypatch.setattr(scaling, "run_child", run)
    options = ["--layers", "12", "24", "--rounds", "2", "--results", str(tmp_path)]
    assert scaling.main(options) == 0
    assert tried == [12, 24, 12, 24]
    measured = json.loads((tmp_path / "scaling.json").read_text())
    assert [measured[depth]["seconds"] for depth in ("12", "24")] == [12.0, 24.0]


def test_no_rounds_are_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.main(["--rounds", "0"])
    assert "--rounds: expected a number of at least 1, got 0" in capsys.readouterr().err
