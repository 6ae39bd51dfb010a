from __future__ import annotations

from pathlib import Path

import pytest

from dechaff.search.pareto import plot_points
from dechaff.search.result import Point


@pytest.mark.parametrize(
    ("over_size", "axis", "mark"),
    [(False, "median milliseconds per held-out batch", "12 MB"), (True, "MB", "3.5 ms")],
)
def test_the_plot_is_over_what_was_searched_for(
    over_size: bool, axis: str, mark: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    points = [
        Point("original", (), 0.9, held_out=0.9, milliseconds=4.0, megabytes=90.0),
        Point("3 bits", (), 0.89, held_out=0.88, milliseconds=3.5, megabytes=12.0),
    ]
    path = tmp_path / "way.svg"
    plot_points(points, "accuracy", path, over_size=over_size)
    drawn = path.read_text(encoding="utf-8")
    assert f"<!-- {axis} -->" in drawn
    assert f"{mark} -->" in drawn
