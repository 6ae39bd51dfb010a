from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pytest

from benchmarks import memory
from benchmarks.memory import DENSE, is_met, to_markdown
from benchmarks.memory_measurement import measure
from benchmarks.peers import DECHAFF


def peaks(dense: int, own: int) -> dict[str, Any]:
    found = {
        name: {"running": size, "loading": 2**20} for name, size in ((DENSE, dense), (DECHAFF, own))
    }
    return {"cell": {"batch": 4, "sequence": 16}, "peaks": found}


def test_padding_removal_must_not_cost_memory() -> None:
    assert is_met(peaks(100 * 2**20, 90 * 2**20))
    assert not is_met(peaks(100 * 2**20, 110 * 2**20))


def test_a_contestant_that_fails_is_told() -> None:
    failed = peaks(2**20, 2**20)
    failed["peaks"][DENSE] = None
    assert not is_met(failed)
    assert "| failed |" in to_markdown([failed], "tiny")


def test_the_table_holds_a_column_per_shape_in_mebibytes() -> None:
    lines = to_markdown([peaks(30 * 2**20, 20 * 2**20)], "tiny").splitlines()
    assert lines[2] == "| contestant | B=4, S=16 |"
    assert lines[-1] == "| dechaff | 20 (1) |"
    assert ": met*" in lines[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process")
def test_peaks_are_measured_while_loading_and_while_running(
    tiny_results: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "run_child", lambda module, task: measure(task))
    options = ["--model", "tiny", "--layers", "1", "--shapes", "2x8", "--peers", DECHAFF]
    memory.main([*options, "--results", str(tiny_results)])
    (cell,) = json.loads((tiny_results / "memory.json").read_text())
    assert set(cell["peaks"]) == {DENSE, DECHAFF}
    assert all(2**24 < peak["loading"] < 2**32 for peak in cell["peaks"].values())
    assert all(2**24 < peak["running"] < 2**32 for peak in cell["peaks"].values())
    assert "| dechaff |" in (tiny_results / "memory.md").read_text()


@pytest.mark.parametrize("shape", ["16", "0x4", "axb"])
def test_a_shape_that_is_none_is_refused(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        memory.main(["--shapes", shape])
    assert "expected rows x length such as 16x128" in capsys.readouterr().err


def test_files_that_the_system_is_to_forget_stay(tmp_path: pathlib.Path) -> None:
    (tmp_path / "weights.data").write_bytes(b"1234")
    memory.forget_files(tmp_path)
    assert (tmp_path / "weights.data").read_bytes() == b"1234"
