"""Outcomes of trials, and times, kept in a folder: a search that was stopped goes on from them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from dechaff.ir import UsageError

from .confidence import Drop

_FILE = "trials.jsonl"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial found.

    Attributes:
        loss: mean loss over the rows seen.
        score: the metric; None if the trial ended early.
        seconds: time of the trial.
        error: standard error of the difference of its loss from the original's.
        drop: how far the metric fell; None if the trial ended early.
    """

    loss: float
    score: float | None
    seconds: float = 0.0
    error: float = 0.0
    drop: Drop | None = None


class Journal:
    """Trials by what was tried. With a folder, each is written down as soon as it is known.

    A search is deterministic: one that was stopped is run again from the start, and finds here what
    it tried before.
    """

    def __init__(self, folder: pathlib.Path | None, identity: Mapping[str, Any]) -> None:
        """Read what the folder holds.

        Raises:
            UsageError: it is of another search.
        """
        self._outcomes: dict[str, Outcome] = {}
        self._measured: dict[str, float] = {}
        self._path = None if folder is None else folder / _FILE
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps(dict(identity), sort_keys=True)
        if not self._path.exists():
            self._path.write_text(head + "\n", encoding="utf-8")
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        if not lines or lines[0] != head:
            raise UsageError(
                f"{self._path} is of another search: other model, data, calibration data, passes "
                "or settings; give another folder"
            )
        for line in lines[1:]:
            self._read(line)
        self._path.write_text("".join(f"{line}\n" for line in self._lines(head)), "utf-8")

    def _lines(self, head: str) -> list[str]:
        measured = (_measured_line(what, value) for what, value in self._measured.items())
        return [head, *measured, *(_line(key, found) for key, found in self._outcomes.items())]

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if "measured" in entry:
                self._measured[entry["measured"]] = entry["value"]
                return
            tried = entry.pop("tried")
        except ValueError:
            return  # the line that a kill cut short
        drop = entry.pop("drop", None)
        self._outcomes[tried] = Outcome(**entry, drop=None if drop is None else Drop(**drop))

    def get(self, tried: str) -> Outcome | None:
        """The outcome of an earlier trial."""
        return self._outcomes.get(tried)

    def add(self, tried: str, outcome: Outcome) -> None:
        """Keep the outcome of a trial."""
        self._outcomes[tried] = outcome
        self._write(_line(tried, outcome))

    def measured(self, what: str, measure: Callable[[], float]) -> float:
        """A measurement, taken if it is not known."""
        if what not in self._measured:
            self._measured[what] = measure()
            self._write(_measured_line(what, self._measured[what]))
        return self._measured[what]

    def _write(self, line: str) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def _measured_line(what: str, value: float) -> str:
    return json.dumps({"measured": what, "value": value})


def _line(tried: str, outcome: Outcome) -> str:
    return json.dumps({"tried": tried, **dataclasses.asdict(outcome)})
