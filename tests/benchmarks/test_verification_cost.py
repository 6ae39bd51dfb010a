from __future__ import annotations

import pathlib

import pytest

from benchmarks.scaling_measurement import export
from benchmarks.verification_cost import Seconds, measure, passes_and_verification, table


def seconds(fold: float, verify: float, **other: float) -> Seconds:
    steps = {"": 9.0, "capture": 5.0, "fold": fold, "lower for cpu": 7.0, "verify": verify}
    return {"wall": steps | other, "processor": steps | other}


def test_checks_within_the_passes_and_at_the_end_count_and_nothing_else() -> None:
    off, each = seconds(2.0, 0.0), seconds(3.0, 0.5)
    assert passes_and_verification(off, each, "wall") == (2.0, 1.5)


@pytest.mark.parametrize(("checked", "met"), [(3.0, True), (4.0, False)])
def test_more_than_the_passes_is_missed(checked: float, met: bool) -> None:
    item = {"off": seconds(2.0, 0.0), "final": seconds(2.0, 0.5), "each": seconds(checked, 0.5)}
    judged, text = table([item] * 3)
    assert judged is met
    assert ("**missed**" in text) is not met


def test_every_pass_and_the_verification_are_timed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECHAFF_CACHE", str(tmp_path))
    source = export({"name": "tiny", "layers": 1, "export_to": str(tmp_path), "opset": 18})
    found = measure(source, "each")
    assert {"fold-constants", "verify"} <= found["wall"].keys() == found["processor"].keys()
    assert found["wall"]["verify"] > 0
