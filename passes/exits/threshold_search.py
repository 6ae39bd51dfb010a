"""The search for exit thresholds, over scores of rows that ran through all layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Floats = np.ndarray[Any, Any]

TEST_COST = 0.1
"""What an exit test costs, as a share of a layer."""

_CANDIDATES = 24
_PRICES = np.geomspace(1, 60, 30)
"""Layers that a lost right answer may cost, from a bold curve to a careful one."""
_SWEEPS = 4
_HALVINGS = range(1, 7)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Thresholds of some exits, and what they do on the data.

    Attributes:
        thresholds: by layer; other layers have no exit.
        layers: mean number of layers that a row runs through.
        cost: the same, with the exit tests, in layers.
        kept: share of right answers.
    """

    thresholds: dict[int, float]
    layers: float
    cost: float
    kept: float


@dataclasses.dataclass(frozen=True)
class ExitScores:
    """What every exit says of every row.

    Attributes:
        layers: after which layers there may be exits, ascending; E of them.
        num_layers: layers of the stack.
        scores: float[n, E], what the test compares with its threshold.
        right: bool[n, E + 1], whether the answer at each exit is right, the whole model's last.
        rising: whether a row leaves where its score is above the threshold, or below it.
        one_threshold: whether all exits share their threshold.
    """

    layers: tuple[int, ...]
    num_layers: int
    scores: Floats
    right: Floats
    rising: bool
    one_threshold: bool = False

    @property
    def full_share(self) -> float:
        """Share of right answers of the whole model."""
        return float(self.right[:, -1].mean())

    def setting(self, thresholds: Floats) -> Setting:
        """What thresholds float[E] do; not a number stands for no exit."""
        with np.errstate(invalid="ignore"):
            leaves = self.scores > thresholds if self.rising else self.scores < thresholds
        always = np.ones((len(leaves), 1), bool)
        exits = np.concatenate([leaves, always], axis=1).argmax(axis=1)
        depths = np.array([*self.layers, self.num_layers])[exits]
        tested = np.concatenate([np.cumsum(~np.isnan(thresholds)), [(~np.isnan(thresholds)).sum()]])
        kept = self.right[np.arange(len(exits)), exits].mean()
        chosen = {
            layer: float(value)
            for layer, value in zip(self.layers, thresholds, strict=True)
            if not np.isnan(value)
        }
        mean = float(depths.mean())
        return Setting(chosen, mean, mean + TEST_COST * float(tested[exits].mean()), float(kept))


def best_settings(scores: ExitScores) -> list[Setting]:
    """Settings of which none beats another in cost and right answers, the slowest first."""
    none = np.full(len(scores.layers), np.nan)
    found = [scores.setting(none)]
    if scores.one_threshold:
        for value in np.unique(scores.scores):
            found.append(scores.setting(np.full(len(none), value - 0.5)))
    else:
        found += [_search(scores, none, price) for price in _PRICES[::-1]]
    return undominated(found)


def _search(scores: ExitScores, start: Floats, price: float) -> Setting:
    """Coordinate descent: one threshold at a time, over quantiles of its scores."""

    def loss(thresholds: Floats) -> float:
        setting = scores.setting(thresholds)
        return setting.cost - price * setting.kept * scores.num_layers

    candidates = np.quantile(scores.scores, np.linspace(0.02, 0.98, _CANDIDATES), axis=0)
    best, lowest = start.copy(), loss(start)
    for _ in range(_SWEEPS):
        before = lowest
        for exit_index in range(len(best)):
            for value in (np.nan, *candidates[:, exit_index]):
                trial = best.copy()
                trial[exit_index] = value
                now = loss(trial)
                if now < lowest - 1e-9:
                    best, lowest = trial, now
        if lowest == before:
            break
    return scores.setting(best)


def stricter(scores: ExitScores, setting: Setting) -> list[Setting]:
    """The same exits with thresholds ever nearer to those that no row reaches.

    What loses nothing on the data may on other data, most of all where the model was trained on the
    data, and is sure of all of it. The way to the sure end is halved again and again.
    """
    if scores.one_threshold:
        return []
    limit = 1.0 if scores.rising else 0.0
    given = np.array([setting.thresholds.get(layer, np.nan) for layer in scores.layers])
    halves = [scores.setting(limit + (given - limit) / 2**step) for step in _HALVINGS]
    return [each for each in halves if each.layers < scores.num_layers]


def undominated(settings: list[Setting]) -> list[Setting]:
    """Those that no other beats in cost and right answers, the slowest first."""
    ordered = sorted(settings, key=lambda setting: (-setting.kept, setting.cost))
    curve: list[Setting] = []
    for setting in ordered:
        if not curve or setting.cost < curve[-1].cost:
            curve.append(setting)
    return curve
