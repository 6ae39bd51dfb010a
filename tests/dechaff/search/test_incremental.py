"""A variant is run from where it parts from the base on, and gives what a whole run gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dechaff.ir import Module
from dechaff.passes import apply_pass
from dechaff.passes.prune import Prune, PruneOptions
from dechaff.search.incremental import IncrementalRunner
from tests.dechaff.search.toy_models import batches, classifier
from tests.model_runner import run_module

BASE = classifier()
INPUTS = [{"x": batch["x"]} for batch in batches(BASE, count=3)]


def pruned(remove: str) -> Module:
    variant = BASE.clone()
    apply_pass(variant, Prune(PruneOptions(remove)))
    return variant


def prepared(variants: Sequence[Module], max_bytes: int = 1 << 30) -> IncrementalRunner:
    runner = IncrementalRunner(INPUTS, max_bytes=max_bytes)
    runner.rebase(BASE)
    runner.prepare(variants)
    return runner


@pytest.mark.parametrize("remove", ["ffn.3", "ffn.0", "ffn.2.features.0-7", "ffn.1+ffn.3", ""])
def test_a_variant_gives_what_it_gives_by_itself(remove: str) -> None:
    variant = pruned(remove)
    runner = prepared([variant])
    for inputs, found in zip(INPUTS, runner.run(variant), strict=True):
        expected = run_module(variant, inputs)["logits"]
        np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-5)


def test_what_lies_before_the_edit_is_not_computed_again() -> None:
    late, early = pruned("ffn.3.features.0"), pruned("ffn.0.features.0")
    runner = prepared([late, early])
    assert runner.share_computed(late) == pytest.approx(5 / 17)
    assert runner.share_computed(early) == 1


def test_after_an_edit_is_kept_values_before_it_are_still_known() -> None:
    first, second = pruned("ffn.3"), pruned("ffn.2+ffn.3")
    runner = prepared([first, second, pruned("ffn.2")])
    runner.rebase(first)
    assert runner.share_computed(second) < 0.3
    for inputs, found in zip(INPUTS, runner.run(second), strict=True):
        expected = run_module(second, inputs)["logits"]
        np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-5)


def test_values_after_an_edit_that_was_kept_are_computed_anew() -> None:
    kept, later = pruned("ffn.0"), pruned("ffn.0+ffn.3")
    runner = prepared([kept, pruned("ffn.3")])
    runner.rebase(kept)
    assert runner.share_computed(later) < 0.3
    for inputs, found in zip(INPUTS, runner.run(later), strict=True):
        expected = run_module(later, inputs)["logits"]
        np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-5)


def test_without_memory_everything_is_computed_again() -> None:
    late = pruned("ffn.3")
    runner = prepared([late], max_bytes=0)
    assert runner.share_computed(late) == 1
    found = next(iter(runner.run(late)))["logits"]
    np.testing.assert_allclose(found, run_module(late, INPUTS[0])["logits"], rtol=1e-4, atol=1e-5)
