"""A part of the ONNX project's own tests; ``make conformance`` runs them all."""

from __future__ import annotations

from benchmarks import conformance
from benchmarks.conformance import BackendTest, backend_tests, check
from benchmarks.conformance_runtimes import ONNX_RUNTIME, RUNTIMES

ALWAYS = ("if", "loop", "scan", "sequence", "optional", "string", "affine_grid", "flexattention")
EVERY = 20


def chosen_tests() -> list[BackendTest]:
    """Control flow and types that are not tensors, and every some of the rest."""
    tests = backend_tests()
    special = [test for test in tests if any(f"test_{part}" in test.name for part in ALWAYS)]
    return list({test.name: test for test in special + tests[::EVERY]}.values())


def test_operators_travel_unharmed() -> None:
    verdicts = [check(test) for test in chosen_tests()]
    harmed = [verdict for verdict in verdicts if verdict.standing == "harmed"]
    assert harmed == []
    kept = sum(verdict.standing == "kept" for verdict in verdicts)
    assert kept > len(verdicts) / 2


def test_what_differs_is_told() -> None:
    (test,) = (test for test in backend_tests() if test.name == "node/test_neg")
    feed = {"x": test.data_sets[0][0][0]}
    wanted = [[test.data_sets[0][1][0] + 1]]
    problem = conformance._after(test.model, "none", "cpu", [feed], wanted, RUNTIMES[ONNX_RUNTIME])
    assert problem is not None
    assert "output 0" in problem
