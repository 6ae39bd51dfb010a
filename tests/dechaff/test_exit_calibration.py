"""Heads and thresholds for early exits, from data of the user's."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import dechaff
from dechaff.ir import UsageError
from dechaff.passes.exits.head_fitting import fit_head
from dechaff.passes.exits.light_heads import load_heads
from dechaff.passes.exits.threshold_search import ExitScores, best_settings, stricter
from tests.model_runner import Array
from tests.passes.exit_graphs import encoder
from tests.passes.rewrite_checks import module_from

MODEL = module_from(encoder()).model


def batches(count: int = 12) -> list[dict[str, Array]]:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        mask = np.arange(6) < generator.integers(1, 7, 16)[:, None]
        x = generator.standard_normal((16, 6, 4)).astype(np.float32)
        found.append({"x": x, "mask": mask})
    return found


def answers_of(model: dechaff.OptimizedModel) -> Array:
    return np.concatenate([model.run(batch)["logits"].argmax(axis=1) for batch in batches()])


def test_heads_are_fitted_to_the_model_s_own_answers(tmp_path: pathlib.Path) -> None:
    found = dechaff.fit_exit_heads(MODEL.clone(), batches(), tmp_path / "heads.npz")
    assert found.rows == 192
    assert found.agreement.keys() == load_heads(found.path).keys() == {1, 2, 3}
    assert min(found.agreement.values()) > 0.6
    assert "agreement by layer: 1: " in str(found)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("heads") / "heads.npz"
    return dechaff.fit_exit_heads(MODEL.clone(), batches(), path).path


@pytest.mark.parametrize("criterion", ["entropy", "patience"])
def test_thresholds_keep_what_was_asked_for(criterion: str, heads: str) -> None:
    data = batches()
    base = dechaff.optimize(MODEL.clone(), verify="off")
    found = dechaff.calibrate_exits(MODEL.clone(), data, criterion=criterion, keep=0.6, heads=heads)
    assert found.setting.layers < 4
    assert found.setting.kept >= 0.6
    faster = dechaff.optimize(MODEL.clone(), passes=f"default,{found.passes}", verify="off")
    kept = (answers_of(faster) == answers_of(base)).mean()
    assert kept == pytest.approx(found.setting.kept, abs=0.011)  # thresholds are written rounded
    costs = [setting.cost for setting in found.curve]
    assert costs == sorted(costs, reverse=True)


def test_labels_say_what_is_right() -> None:
    data = batches()
    base = dechaff.optimize(MODEL.clone(), verify="off")
    labels = 1 - answers_of(base)  # the model is always wrong, so leaving early costs nothing
    found = dechaff.calibrate_exits(MODEL.clone(), data, labels=labels, keep=1.0)
    assert found.passes in str(found)
    assert found.full == 0
    assert found.setting.layers < 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batches": []}, "no batch of inputs"),
        ({"batches": batches(1), "labels": [0]}, "16 rows, labels of shape"),
        ({"batches": batches(1), "stack": "nowhere"}, "expected one stack of layers, found none"),
    ],
)
def test_what_does_not_fit_is_told(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dechaff.calibrate_exits(MODEL.clone(), **given)  # type: ignore[arg-type]


def test_a_linear_teacher_is_learnt() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((600, 8)).astype(np.float32) * 3 + 1
    logits = x @ generator.standard_normal((8, 3)) + [0.5, -1, 0]
    head, agreement = fit_head(x, logits)
    assert agreement > 0.9
    assert ((x @ head.weight.T + head.bias).argmax(1) == logits.argmax(1)).mean() > 0.9
    with pytest.raises(UsageError, match="at least 20 rows"):
        fit_head(x[:5], logits[:5])


def test_the_search_leaves_where_answers_are_right_already() -> None:
    sure = np.array([[0.0, 0.0], [0.0, 0.0], [0.6, 0.0], [0.6, 0.6]])
    right = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1]], bool)
    curve = best_settings(ExitScores((1, 2), 3, sure + np.array([0.1, 0.1]), right, rising=False))
    exact = [setting for setting in curve if setting.kept == 1]
    assert min(setting.layers for setting in exact) == (1 + 1 + 2 + 3) / 4


@pytest.mark.parametrize("rising", [False, True])
def test_stricter_thresholds_let_ever_fewer_rows_leave(rising: bool) -> None:
    entropies = np.geomspace(0.001, 0.5, 64)[:, None] * np.array([1.0, 0.5])
    right = np.ones((64, 3), bool)
    scores = ExitScores((1, 2), 3, 1 - entropies if rising else entropies, right, rising)
    bold = scores.setting(np.array([0.7, np.nan] if rising else [0.3, np.nan]))
    settings = [bold, *stricter(scores, bold)]
    assert len(settings) > 3
    assert all(list(setting.thresholds) == [1] for setting in settings)
    layers = [setting.layers for setting in settings]
    assert layers == sorted(set(layers))
    assert settings[1].thresholds[1] == pytest.approx(0.85 if rising else 0.15)
    counted = ExitScores((1, 2), 3, entropies, right, rising=True, one_threshold=True)
    assert stricter(counted, counted.setting(np.array([1.0, 1.0]))) == []


def test_the_loss_of_every_layer_trains_heads_that_the_pass_takes(tmp_path: pathlib.Path) -> None:
    import torch

    from dechaff.layerwise_loss import early_logits, exit_heads, layerwise_loss, save_exit_heads

    torch.manual_seed(0)
    heads = exit_heads(hidden_size=4, num_labels=2, num_layers=3)
    hidden = [torch.randn(5, 6, 4) for _ in range(2)]
    mask = (torch.arange(6) < torch.tensor([6, 3, 1, 2, 5])[:, None]).long()
    labels = torch.tensor([0, 1, 0, 1, 1])
    logits = [*early_logits(heads, hidden, mask), torch.randn(5, 2)]
    losses = [torch.nn.functional.cross_entropy(each, labels) for each in logits]
    expected = (losses[0] + 2 * losses[1] + 3 * losses[2]) / 6
    assert torch.allclose(layerwise_loss(logits, labels), expected)
    first = hidden[0][1, :3].detach().numpy()
    summary = np.concatenate([first[0], first.mean(axis=0)])
    save_exit_heads(heads, tmp_path / "heads.npz")
    head = load_heads(tmp_path / "heads.npz")[1]
    np.testing.assert_allclose(
        head.weight @ summary + head.bias, logits[0][1].detach().numpy(), rtol=1e-5, atol=1e-6
    )
