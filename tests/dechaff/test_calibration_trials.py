from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dechaff.calibration import Calibration
from dechaff.calibration_trials import OutputTrials
from dechaff.ir import Module, UsageError
from tests.model_runner import Array
from tests.passes.rewrite_checks import module_from

TWO_OUTPUTS = """g (float[T,8] x) => (float[T,4] y, float[T,4] z)
    <float[8,4] w = {...}, float[4,8] v = {...}>
    { y = MatMul (x, w)  z = Gemm <transB = 1> (x, v) }"""


def rows(count: int, seed: int = 0) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)}


def trials(module: Module) -> OutputTrials:
    constants = [module.graph.initializers[name] for name in ("w", "v")]
    return OutputTrials(module, [rows(5), rows(1, 1)], constants)


def test_errors_are_shares_of_the_squares_in_the_mean_over_outputs() -> None:
    module = module_from(TWO_OUTPUTS)
    w, v = (module.graph.initializers[name] for name in ("w", "v"))
    assert w.const_value is not None
    found = trials(module)
    assert found.error({}) == 0.0
    assert found.error({w: np.zeros((8, 4), np.float32)}) == pytest.approx(0.5)
    assert found.error({w: 1.1 * w.const_value.numpy()}) == pytest.approx(0.01 / 2, rel=1e-4)
    both = {w: np.zeros((8, 4), np.float32), v: np.zeros((4, 8), np.float32)}
    assert found.error(both) == pytest.approx(1.0)
    assert found.error({}) == 0.0  # nothing is left of the trials before


def test_the_module_stays_as_it_was() -> None:
    module = module_from(TWO_OUTPUTS)
    trials(module).error({})
    assert [value.name for value in module.graph.inputs] == ["x"]
    assert set(module.graph.initializers) == {"w", "v"}
    assert all(value.const_value is not None for value in module.graph.initializers.values())


def test_numbers_that_are_none_are_an_infinite_error() -> None:
    module = module_from(TWO_OUTPUTS)
    found = trials(module)
    assert found.error({module.graph.initializers["w"]: np.full((8, 4), np.nan, np.float32)}) == (
        float("inf")
    )


def test_outputs_of_integers_tell_nothing() -> None:
    module = module_from(
        """g (float[T,8] x) => (int64[T] y) <float[8,4] w = {...}>
        { scores = MatMul (x, w)  y = ArgMax <axis = 1, keepdims = 0> (scores) }"""
    )
    with pytest.raises(UsageError, match="none of them is of floating-point numbers"):
        OutputTrials(module, [rows(2)], [module.graph.initializers["w"]])


def test_what_was_measured_is_kept_for_the_same_model_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECHAFF_CACHE", str(tmp_path))
    calls: list[int] = []

    def measure() -> list[float]:
        calls.append(1)
        return [0.5]

    for module, data, expected in (
        (module_from(TWO_OUTPUTS), rows(5), 1),
        (module_from(TWO_OUTPUTS), rows(5), 1),
        (module_from(TWO_OUTPUTS), rows(5, 1), 2),
        (module_from(TWO_OUTPUTS.replace("Gemm <transB = 1> (x, v)", "Identity (y)")), rows(5), 3),
    ):
        calibration = Calibration([data], "test", use_cache=True)
        assert calibration.measured("errors", module, measure) == [0.5]
        assert len(calls) == expected
    calibration = Calibration([rows(5)], "test")
    calibration.measured("errors", module_from(TWO_OUTPUTS), measure)
    assert len(calls) == 4
