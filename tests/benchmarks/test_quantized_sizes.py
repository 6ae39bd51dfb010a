from __future__ import annotations

import pytest

from benchmarks.quantization import main


def test_sizes_are_those_of_the_saved_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sizes", "--model", "tiny"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "| `default`",
        "| `default,quantize-blockwise`",
        "| `default,quantize-blockwise{group=0}`",
    ]
    plain, grouped, single = (float(row[1]) for row in rows)
    assert plain > 1.5 * max(grouped, single)  # so small a model is names and nodes for a part
    assert float(rows[0][2].rstrip(" |")) == 1.0


def test_sizes_are_of_a_model_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--sizes", "--checkpoint", "folder", "--data", "folder"])
    assert "--sizes is for --model" in capsys.readouterr().err
