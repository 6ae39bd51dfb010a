"""Metrics of classes, and their loss."""

from __future__ import annotations

import numpy as np

from dechaff.arrays import Array, Arrays
from dechaff.ir import UsageError

from .confidence import Losses
from .metric import Batch, Metric, Results, first_output, labels_of

_HALVINGS = 30


class Classification(Metric):
    """Of classes by the greatest logit; the loss is cross-entropy at the original's temperature.

    A fine-tuned model is mostly too sure of itself. What makes it less so, as the loss of a block
    does, would then lower its cross-entropy, whatever becomes of its answers. So logits are
    divided by the temperature at which the original's are neither too sure nor too modest (Guo et
    al., ICML 2017, section 4.2).
    """

    _sharpness = 1.0

    def begin(self, results: Results) -> None:
        """Fit the temperature; a model that is too modest is left so."""
        logits = np.concatenate([_logits(outputs) for outputs, _, _ in results])
        labels = np.concatenate([labels_of(batch, self.name) for _, batch, _ in results])
        _check_rows(logits, labels)
        self._sharpness = _best_sharpness(logits, labels.astype(np.int64))

    def losses(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses:
        """Cross-entropy in nats, float64[rows]."""
        logits, labels = _logits(outputs), labels_of(batch, self.name).astype(np.int64)
        _check_rows(logits, labels)
        shifted = self._sharpness * (logits - logits.max(axis=1, keepdims=True))
        log_sum = np.log(np.exp(shifted).sum(axis=1))
        return np.asarray(log_sum - shifted[np.arange(len(labels)), labels])


class Accuracy(Classification):
    """Share of rows whose greatest logit is that of the label."""

    name = "accuracy"

    def gains(self, outputs: Arrays, batch: Batch, original: Arrays) -> Losses:
        """1 for each row that is right, 0 for the others."""
        right = _logits(outputs).argmax(axis=1) == labels_of(batch, self.name)
        return np.asarray(right, np.float64)

    def score(self, results: Results) -> float:
        """Share of rows that are right."""
        return float(np.concatenate([self.gains(*result) for result in results]).mean())


class MacroF1(Classification):
    """The mean over the classes of their F1."""

    name = "f1"

    def score(self, results: Results) -> float:
        """Mean over the classes that occur of the harmonic mean of precision and recall."""
        found = np.concatenate([_logits(outputs).argmax(axis=1) for outputs, _, _ in results])
        wanted = np.concatenate([labels_of(batch, self.name) for _, batch, _ in results])
        scores = [
            2
            * np.sum((found == each) & (wanted == each))
            / ((found == each).sum() + (wanted == each).sum())
            for each in np.union1d(found, wanted)
        ]
        return float(np.mean(scores))


def _best_sharpness(logits: Array, labels: Array) -> float:
    """What logits are multiplied by, at most 1, for the least cross-entropy: it is convex in it."""
    own = logits[np.arange(len(labels)), labels]
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        sharpness = (low + high) / 2
        shares = np.exp(sharpness * (logits - logits.max(axis=1, keepdims=True)))
        expected = (shares * logits).sum(axis=1) / shares.sum(axis=1)
        low, high = (low, sharpness) if expected.mean() > own.mean() else (sharpness, high)
    return high


def _logits(outputs: Arrays) -> Array:
    logits = first_output(outputs)
    if logits.ndim != 2:
        raise UsageError(
            f"accuracy and f1 expect logits of shape [rows, classes], got {list(logits.shape)}; "
            "give a function of outputs and batch as metric"
        )
    return logits


def _check_rows(logits: Array, labels: Array) -> None:
    if len(logits) != len(labels):
        raise UsageError(f"a batch has {len(labels)} labels and {len(logits)} rows of outputs")
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise UsageError(
            f"labels go from {labels.min()} to {labels.max()}; the model has classes 0 to "
            f"{logits.shape[1] - 1}"
        )
