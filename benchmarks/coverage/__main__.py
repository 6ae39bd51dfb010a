"""``python -m benchmarks.coverage``: all families through all doors, and the page that tells."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

from benchmarks.measure import progress_bar

from .checking import DOORS, Outcome, check
from .families import FAMILIES, SUBSET, Family
from .page import to_markdown

_VERSIONED = ("torch", "transformers", "onnxruntime")
_PAGE = pathlib.Path("docs/coverage.md")
_RESULTS = pathlib.Path("docs/coverage.jsonl")
_DONE, _WRONG = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the families, print the table, write the page.

    Returns:
        0; 1 if an optimized model's outputs are wrong. A model that cannot be captured, or whose
        padding stays, is no failure: the page says why.
    """
    options = _parse(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    chosen = [family for family in FAMILIES if family.name in options.families]
    known = {} if options.fresh else _read(options.results)
    wanted = [(family, door) for family in chosen for door in options.doors]
    with progress_bar(len(wanted), "coverage") as advance:
        for family, door in wanted:
            advance(f"{family.name} through {door}")
            outcome = known.get((family.name, door))
            if outcome is None or (options.speed and not outcome.timed):
                known[family.name, door] = _check(family, door, options.speed)
                _write(options.results, known)
    page = to_markdown(_in_order(known), {n: importlib.metadata.version(n) for n in _VERSIONED})
    options.page.write_text(page, encoding="utf-8")
    print(page)
    wrong = [o for o in known.values() if o.captured and not o.verified]
    for outcome in wrong:
        print(f"{outcome.family} through {outcome.door}: {outcome.reason}", file=sys.stderr)
    return _WRONG if wrong else _DONE


def _check(family: Family, door: str, speed: bool) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="dechaff-coverage-") as folder:
        return check(family, door, pathlib.Path(folder), speed)


_Known = dict[tuple[str, str], Outcome]


def _read(path: pathlib.Path) -> _Known:
    """What an earlier run found; it goes on from there."""
    if not path.exists():
        return {}
    outcomes = [Outcome(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    return {(outcome.family, outcome.door): outcome for outcome in outcomes}


def _write(path: pathlib.Path, known: _Known) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dataclasses.asdict(outcome)) for outcome in _in_order(known)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _in_order(known: _Known) -> list[Outcome]:
    places = [(family.name, door) for family in FAMILIES for door in DOORS]
    return [known[place] for place in places if place in known]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    names = [family.name for family in FAMILIES]
    parser.add_argument("--families", type=_listed(names), default=names, help="a,b,.. or subset")
    parser.add_argument("--doors", type=_listed(DOORS), default=list(DOORS), help="a,b,..")
    parser.add_argument("--page", type=pathlib.Path, default=_PAGE, help="the page to write")
    parser.add_argument("--results", type=pathlib.Path, default=_RESULTS, help="kept between runs")
    parser.add_argument(
        "--speed", action="store_true", help="time each beside its original, on a quiet machine"
    )
    parser.add_argument("--fresh", action="store_true", help="check again what is known already")
    return parser.parse_args(arguments)


def _listed(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        if text == "subset":
            return list(SUBSET)
        names = [name.strip() for name in text.split(",")]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
