"""A trial sees a sample or all rows, and says how far the metric fell on them."""

from __future__ import annotations

import math
import pathlib

import pytest

from dechaff.ir import Module
from dechaff.passes import apply_pass
from dechaff.passes.prune import Prune, PruneOptions
from dechaff.search.journal import Journal
from dechaff.search.metrics import make_metric
from dechaff.search.trials import Limit, Trials
from dechaff.search.validation import LabelledInputs
from tests.dechaff.search.toy_models import batches, classifier

MODULE = classifier()
DATA = [LabelledInputs(batch, {"x": batch["x"]}) for batch in batches(MODULE, count=12)]
NONE = Limit(math.inf)


def trials(metric: str = "accuracy", folder: pathlib.Path | None = None) -> Trials:
    return Trials(MODULE, DATA, make_metric(metric), Journal(folder, {}), 0, None)


def pruned(remove: str) -> Module:
    variant = MODULE.clone()
    apply_pass(variant, Prune(PruneOptions(remove)))
    return variant


def test_a_sample_is_of_whole_batches_and_is_compared_with_itself() -> None:
    found = trials().judge(pruned("ffn.0"), "ffn.0", NONE, sampled=True)
    whole = trials().judge(pruned("ffn.0"), "ffn.0", NONE)
    assert found.drop is not None
    assert whole.drop is not None
    assert (found.drop.count, whole.drop.count) == (384, 768)
    assert found.drop.error > whole.drop.error > 0
    assert found.drop.mean == pytest.approx(whole.drop.mean, abs=4 * found.drop.error)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_variant_that_changes_nothing_has_no_drop(sampled: bool) -> None:
    made = trials()
    found = made.judge(pruned(""), "nothing", NONE, sampled=sampled)
    assert found.drop is not None
    assert (found.drop.mean, found.drop.error, found.error) == (0, 0, 0)
    assert found.loss == pytest.approx(made.original_loss)


def test_what_will_surely_be_refused_is_ended_early() -> None:
    found = trials().judge(pruned("ffn.0+ffn.2"), "both", Limit(0.01, 1.0))
    assert (found.score, found.drop) == (None, None)


def test_metrics_without_rows_are_compared_by_batches() -> None:
    found = trials("f1").judge(pruned("ffn.0"), "ffn.0", NONE)
    assert found.drop is not None
    assert (found.drop.count, found.drop.unit) == (12, "batches")
    assert found.drop.error > 0


def test_a_drop_is_read_back_from_the_folder(tmp_path: pathlib.Path) -> None:
    first = trials(folder=tmp_path).judge(pruned("ffn.0"), "ffn.0", NONE)
    again = trials(folder=tmp_path).judge(pruned("ffn.2"), "ffn.0", NONE)
    assert again == first
