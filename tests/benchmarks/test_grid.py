from __future__ import annotations

import pathlib
from typing import Any

import pytest

from benchmarks.child_process import ChildFailedError, run_child
from benchmarks.grid import __main__ as grid
from benchmarks.grid import measurement
from benchmarks.grid.cells import Cell, estimated_seconds, grid_cells
from benchmarks.grid.findings import find, geometric_mean, means, verdicts, was_alone
from benchmarks.grid.measurement import HOPELESS
from benchmarks.grid.pages import Machine, results_page
from benchmarks.grid.store import cell_key, read_cells, write_cell, write_machine
from benchmarks.peers import DECHAFF, LIMIT, PEERS, REFERENCE, Runner

CELL = Cell("tiny", 1, "uniform", 16, 128)


def row(name: str, ratio: float, rounds: int = 3, error: float = 1e-6) -> dict[str, Any]:
    return {
        "name": name,
        "title": PEERS[name].title,
        "is_dense_peer": PEERS[name].is_dense_peer,
        "rounds": rounds,
        "milliseconds": 10 * ratio,
        "ratio": ratio,
        "max_error": error,
        "ready_seconds": 1.0,
        "detail": "in ONNX Runtime; and more" if name == DECHAFF else "",
    }


def figures(
    cell: Cell, peers: dict[str, float], limit: float = 0.96, **others: Any
) -> dict[str, Any]:
    rows = [row(name, ratio) for name, ratio in peers.items()]
    return {
        "cell": {**vars(cell)},
        "rows": [*rows, row(DECHAFF, 1.0), row(LIMIT, limit)],
        "failures": {},
        "rounds": 3,
        "threads": 2,
        "padded_length": cell.sequence,
        "valid_share": 0.6,
        "padding_is_zero": True,
        "peak_resident_bytes": 2**30,
        "seconds": 12.0,
        "key": "01234567",
        "versions": {"onnxruntime": "1.32.0"},
        **others,
    }


def test_the_best_dense_peer_is_the_fastest_that_got_rounds() -> None:
    measured = figures(CELL, {"torch": 2.0, "ort18": 1.7})
    measured["rows"].append(row("openvino", 1.1, rounds=0))
    found = find(CELL, measured)
    assert (found.best, found.speedup) == (PEERS["ort18"].title, 1.7)
    assert found.limit_share == 0.96


def test_means_are_geometric_and_the_limit_counts_from_128_on() -> None:
    cells = [Cell("tiny", 1, "uniform", 16, sequence) for sequence in (64, 128, 256)]
    found = [
        find(cell, figures(cell, {"torch": speedup}, limit))
        for cell, speedup, limit in zip(cells, (1, 2, 4), (0.5, 0.9, 1.0), strict=True)
    ]
    (mean,) = means(found)
    assert mean.speedup == pytest.approx(2)
    assert mean.limit_share == pytest.approx(geometric_mean([0.9, 1.0]))
    assert (mean.worst, mean.cells) == (1, 3)


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, ""),
        ({"peers": {"torch": 1.59}}, "times the best dense peer"),
        ({"peers": {"torch": 0.96}}, "the worst of all"),
        ({"limit": 0.94}, "of the limit at S >= 128"),
        ({"padding_is_zero": False}, "exactly zero"),
    ],
)
def test_each_bar_can_be_missed(change: dict[str, Any], missed: str) -> None:
    arguments: dict[str, Any] = {"peers": {"torch": 1.7}} | change
    judged = verdicts([find(CELL, figures(CELL, **arguments))])
    failed = [text for met, text in judged if not met]
    assert (missed in " ".join(failed)) if missed else failed == []


def test_an_error_above_the_tolerance_is_missed() -> None:
    measured = figures(CELL, {"torch": 1.7})
    measured["rows"][1]["max_error"] = 3e-5
    assert [text for met, text in verdicts([find(CELL, measured)]) if not met] != []


def test_the_page_tells_machine_bar_and_what_was_only_tried() -> None:
    measured = figures(CELL, {"torch": 1.7})
    measured["rows"].append(row("openvino", HOPELESS * 2, rounds=0))
    measured["failures"] = {"torch-compile": "no compiler"}
    description = {"processor": "Some CPU", "instruction sets": "avx2 fma"}
    page = results_page([Machine(description, [find(CELL, measured)], "results.svg")])
    assert "## Some CPU with fma" in page
    assert "- processor: Some CPU" in page
    assert "over [0.2 S, S]; dechaff in ONNX Runtime." in page
    assert "![speedup by sequence length](results.svg)" in page
    assert "- versions of 1 cells: onnxruntime 1.32.0" in page
    assert "| (3.00x) |" in page
    assert "- torch-compile did not run: no compiler" in page


def test_larger_cells_are_expected_to_take_longer() -> None:
    cells = grid_cells(["tiny"], 0, ["uniform"], [1, 16], [64, 512])
    assert len(cells) == 4
    seconds = [estimated_seconds(cell, 10**8, 7, 20.0, 2) for cell in cells]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[-1]


def test_cells_are_read_as_they_were_written(tmp_path: pathlib.Path) -> None:
    measured = figures(CELL, {"torch": 2.0})
    write_machine(tmp_path, {"processor": "Some CPU"})
    write_cell(tmp_path, CELL, measured)
    assert read_cells(tmp_path) == {CELL: measured}


def test_a_cell_holds_for_the_graph_that_was_measured(tmp_path: pathlib.Path) -> None:
    graph = tmp_path / "default.onnx"
    graph.write_bytes(b"a graph")
    key = cell_key(graph)
    assert cell_key(graph) == key
    graph.write_bytes(b"another graph")
    assert cell_key(graph) != key


def _options(results: pathlib.Path, measured: pathlib.Path) -> list[str]:
    options = ["--models", "tiny", "--layers", "1", "--batch", "3", "--sequence", "10", "12"]
    options += ["--rounds", "2", "--peers", REFERENCE, "ort18", LIMIT]
    options += ["--results", str(results), "--measured", str(measured)]
    return [*options, "--page", str(measured / "RESULTS.md")]


def test_a_grid_is_measured_once_reported_and_taken_up_again(
    tiny_results: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(grid, "was_alone", lambda _: True)  # tests run beside other work
    options = _options(tiny_results, tmp_path)
    assert grid.main(options) == 0
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    cells = read_cells(folder)
    assert [cell.sequence for cell in cells] == [10, 12]
    for measured in cells.values():
        assert {row["name"] for row in measured["rows"]} == {REFERENCE, "ort18", DECHAFF, LIMIT}
        assert all(row["max_error"] < 1e-5 for row in measured["rows"])
        assert measured["padding_is_zero"]
        assert measured["rounds"] == 2
    assert "| 3 | 10 |" in (tmp_path / "RESULTS.md").read_text()
    assert (tmp_path / f"results-{folder.name}.png").stat().st_size > 10_000
    assert (tmp_path / f"results-{folder.name}.svg").read_text().startswith("<?xml")
    capsys.readouterr()
    assert grid.main(options) == 0
    assert "2 cells, 2 of them measured already" in capsys.readouterr().out


def test_a_grid_without_time_begins_no_cell(
    tiny_results: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grid.main([*_options(tiny_results, tmp_path), "--minutes", "0.1"]) == 0
    assert "2 cells are still to be measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_cells_measured_beside_other_work_are_not_published(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_machine(tmp_path / "some-cpu", {"processor": "Some CPU"})
    disturbed = figures(CELL, {"torch": 2.0}, others_share=0.3)
    write_cell(tmp_path / "some-cpu", CELL, disturbed)
    grid.main([*_options(tmp_path / "results", tmp_path), "--report-only"])
    assert "nothing is measured yet" in capsys.readouterr().err
    assert not was_alone(disturbed)
    assert was_alone(figures(CELL, {"torch": 2.0}, others_share=0.01))


def test_a_slow_first_run_is_not_taken_for_the_time_of_a_run() -> None:
    runs: list[None] = []
    assert measurement._trial_seconds(lambda: runs.append(None), first=9.0) < 1.0
    assert len(runs) == measurement._TRIAL_RUNS
    assert measurement._trial_seconds(lambda: runs.append(None), first=11.0) == 11.0
    assert len(runs) == measurement._TRIAL_RUNS


def test_who_got_no_rounds_is_placed_by_the_best_peer() -> None:
    def trial(seconds: float) -> measurement._Trial:
        return measurement._Trial(Runner(lambda: None, list), seconds, 0.0, 0.0)

    trials = {"torch": trial(4.0), "ort18": trial(2.0), DECHAFF: trial(9.0)}
    row = measurement._row("torch", trials["torch"], trials, {"ort18": [3.0], DECHAFF: [2.0]})
    assert row["rounds"] == 0
    assert row["ratio"] == pytest.approx(2 * 1.5)
    assert row["milliseconds"] == pytest.approx(6000)


def test_an_interruption_keeps_what_is_measured(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    write_machine(tmp_path / "measured" / "some-cpu", {"processor": "Some CPU"})
    write_cell(tmp_path / "measured" / "some-cpu", CELL, figures(CELL, {"torch": 2.0}))
    monkeypatch.setattr(grid, "prepare", interrupt)
    assert grid.main(_options(tmp_path / "results", tmp_path / "measured")) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert "## Some CPU" in (tmp_path / "measured" / "RESULTS.md").read_text()


def test_a_child_that_fails_tells_its_last_line() -> None:
    with pytest.raises(ChildFailedError, match="exit code 1: KeyError: 'cells'"):
        run_child("benchmarks.grid.measurement", {})
