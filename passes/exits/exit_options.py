"""The options of ``early-exit``."""

from __future__ import annotations

import dataclasses

import numpy as np

from dechaff.ir import UsageError

from .criteria import CRITERIA, NEVER
from .threshold_search import Setting


@dataclasses.dataclass(frozen=True)
class EarlyExitOptions:
    """Options of ``early-exit``.

    Attributes:
        layers: after which layers rows may leave, counted from 1, such as ``2+4``; ``all``.
        criterion: ``similarity``, ``entropy``, ``gap`` or ``patience``.
        threshold: a number for all exits or one for each, such as ``0.1+0.2``; ``never``.
        stack: name of the stack, such as ``encoder``; ``all``.
        heads: ``own``, the model's own head; ``fit``, light heads, one for each layer, that are
            fitted to the model's own answers on calibration data, which they then need; or a file
            of light heads, as ``dechaff.fit_exit_heads`` writes it.
        output: the graph output that entropy, gap and patience look at; found where it is clear.
    """

    layers: str = "all"
    criterion: str = "similarity"
    threshold: str = "never"
    stack: str = "all"
    heads: str = "own"
    output: str = ""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion expects {', '.join(CRITERIA)}, got {self.criterion!r}")
        _numbers(self.layers, "all", "layers")
        _numbers(self.threshold, "never", "threshold")

    @property
    def chosen_layers(self) -> tuple[int, ...] | None:
        """The layers asked for; None for all."""
        numbers = _numbers(self.layers, "all", "layers")
        return None if numbers is None else tuple(sorted({int(number) for number in numbers}))

    def thresholds(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """float32[count], the default thresholds.

        Raises:
            UsageError: there are more or fewer thresholds than exits.
        """
        numbers = _numbers(self.threshold, "never", "threshold") or (NEVER[self.criterion],)
        if len(numbers) not in (1, count):
            raise UsageError(f"early-exit: got {len(numbers)} thresholds for {count} exits")
        return np.full(count, numbers, np.float32)


def with_setting(options: EarlyExitOptions, setting: Setting) -> EarlyExitOptions:
    """The options with layers and thresholds written out; without any, all, never reached."""
    if not setting.thresholds:
        return dataclasses.replace(options, threshold="never")
    layers = "+".join(map(str, setting.thresholds))
    threshold = "+".join(f"{value:.6g}" for value in setting.thresholds.values())
    return dataclasses.replace(options, layers=layers, threshold=threshold)


def _numbers(text: str, word: str, option: str) -> tuple[float, ...] | None:
    if str(text) == word:
        return None
    try:
        return tuple(float(part) for part in str(text).split("+"))
    except ValueError:
        raise ValueError(
            f"{option} expects {word!r} or numbers as in '2+4', got {text!r}"
        ) from None
