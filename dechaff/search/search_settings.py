"""What a search is asked for."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import Literal, get_args

from dechaff.ir import UsageError

Mode = Literal["accuracy", "size", "speed"]
MODES: tuple[Mode, ...] = get_args(Mode)

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|min|h)?")
_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """What a search is asked for.

    Attributes:
        mode: ``accuracy`` keeps what does not hurt; ``size`` and ``speed`` give the metric up, as
            far as ``max_drop`` allows, for fewer weights or less computation.
        max_drop: how far the metric may fall below the original's, in its own units.
        budget: time for the search: ``"10min"``, ``"90s"``, ``"1h"`` or seconds.
        margin: standard errors by which a drop must be within ``max_drop``, so that it is kept on
            data that the search has not seen: 1 refuses five of six edits whose true drop is just
            beyond it, 2 all but one of forty, 0 believes the data. In mode ``accuracy`` it holds
            for the loss.
        seed: which batches are held out, and the order of the others.
        folder: where outcomes of trials are kept; a search that was stopped goes on from there.
    """

    mode: str = "speed"
    max_drop: float = 0.01
    budget: str | float = "10min"
    margin: float = 1.0
    seed: int = 0
    folder: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"there is no mode {self.mode!r}: choose {', '.join(MODES)}")
        if not self.max_drop >= 0:
            raise UsageError(f"max_drop: expected a number from 0, got {self.max_drop}")
        if not 0 <= self.margin < math.inf:
            raise UsageError(f"margin: expected standard errors, from 0, got {self.margin}")
        self.budget_seconds  # noqa: B018  (raises where it cannot be read)

    @property
    def budget_seconds(self) -> float:
        """The budget in seconds.

        Raises:
            UsageError: it cannot be read.
        """
        match = _DURATION.fullmatch(str(self.budget).strip())
        if match is None or float(match[1]) <= 0:
            raise UsageError(
                f"budget: expected a time such as '10min' or '90s', got {self.budget!r}"
            )
        return float(match[1]) * _SECONDS[match[2] or "s"]

    @property
    def allowed_drop(self) -> float:
        """How far the metric may fall; not at all in mode ``accuracy``."""
        return 0.0 if self.mode == "accuracy" else self.max_drop
