from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

from benchmarks import padding_removal, peers
from benchmarks.peers import DECHAFF, PEERS, REFERENCE

SMALL = ["--model", "tiny", "--layers", "1", "--batch", "3", "--sequence", "10", "--rounds", "2"]


@pytest.fixture(autouse=True)
def _quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor calls a C++ compiler, for half a minute."""
    monkeypatch.setattr(peers, "COMPILER", "eager")


def test_all_contestants_agree_and_are_written_as_json(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    assert padding_removal.main([*SMALL, "--door", "onnx18", "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    taking_part = [name for name, peer in PEERS.items() if peer.missing() is None]
    assert [row["name"] for row in results["rows"]] == taking_part
    assert all(row["max_error"] < 1e-5 and row["milliseconds"] > 0 for row in results["rows"])
    assert results["padding_is_zero"]
    assert PEERS[results["best_dense_peer"]].is_dense_peer
    assert "best dense peer: " in capsys.readouterr().out


def test_a_model_that_comes_from_torch_gives_a_markdown_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert padding_removal.main([*SMALL, "--peers", "torch", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| ---")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| contestant",
        f"| {PEERS[REFERENCE].title}",
        f"| {PEERS[DECHAFF].title}",
    ]


def test_a_peer_that_is_not_installed_gives_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = dataclasses.replace(PEERS["openvino"], package="not_to_be_found")
    monkeypatch.setitem(PEERS, "openvino", absent)
    assert padding_removal.main([*SMALL, "--peers", "openvino"]) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "OpenVINO, opset 23 is left out: pip install 'dechaff[peers]'" in error


def test_wrong_outputs_end_in_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(padding_removal, "TOLERANCE", -1.0)
    assert padding_removal.main([*SMALL, "--door", "onnx23", "--peers", "torch"]) == 1
    assert "wrong" in capsys.readouterr().err
