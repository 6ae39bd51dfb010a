"""A pass with a limit stops after that many rewrites, and leaves a graph that is whole."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from dechaff.ir import Module, find_breaches
from dechaff.passes import PIPELINES, Numerics, Pass, Rewriter, run_passes
from tests.model_runner import run_module
from tests.passes.rewrite_checks import module_from

CHAIN = """
    chain (float[B,4] x) => (float[B,4] y)
    { a = Neg (x)  b = Neg (a)  c = Neg (b)  y = Neg (c) }"""


class NegToSub(Pass):
    """Writes each negation as a subtraction."""

    name = "neg-to-sub"
    numerics = Numerics.EXACT

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        for node in [node for node in module.graph if node.op_type == "Neg"]:
            with rewriter.rewrite("neg", [node]) as builder:
                zero = builder.constant(np.zeros(1, dtype=np.float32))
                builder.replace(node.outputs[0], builder.op("Sub", [zero, *node.inputs]))


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 9])
def test_as_many_rewrites_are_applied_as_the_limit_allows(limit: int) -> None:
    module, (record,) = run_passes(module_from(CHAIN), [NegToSub()], limit=limit)
    expected = min(limit, 4)
    assert len(record.rewrites) == expected
    assert [node.op_type for node in module.graph].count("Sub") == expected


def test_without_a_limit_all_are_applied() -> None:
    _, (record,) = run_passes(module_from(CHAIN), [NegToSub()])
    assert len(record.rewrites) == 4


@pytest.mark.parametrize("step", PIPELINES["default"], ids=lambda step: step.name)
def test_every_pass_may_be_stopped_after_any_rewrite(
    step: type[Pass], exported_bert: Callable[[str, int], Module], tmp_path: pathlib.Path
) -> None:
    names = [other.name for other in PIPELINES["default"]]
    earlier = [other() for other in PIPELINES["default"][: names.index(step.name)]]
    before, _ = run_passes(exported_bert("sdpa", 18), earlier)
    _, (record,) = run_passes(before.clone(), [step()])
    ids = np.arange(10, dtype=np.int64).reshape(2, 5)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    expected = run_module(before, inputs)
    total = len(record.rewrites)
    for limit in {1, total // 2, max(total - 1, 0)}:
        stopped, (part,) = run_passes(before.clone(), [step()], limit=limit)
        assert len(part.rewrites) == min(limit, total)
        assert list(find_breaches(stopped)) == []
        found = run_module(stopped, inputs)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
