"""The coverage page: families by doors, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .checking import Outcome

_HEAD = """# Transformer families

Made by `make coverage` (`python -m benchmarks.coverage`): of each family a small configuration with
random weights goes through each door, all default passes and both targets of ONNX Runtime, and its
outputs are compared with the original's on ragged inputs: padding right, left, in between, rows
without tokens, one row, one token.

Doors: `torch` is the module itself; `onnx18` and `onnx23` are files that torch exports at these
opsets. *Attention* counts those known as such, of those the model has. *Padding removed* counts
operations that run on valid tokens alone, attentions among them in brackets. *Times as fast* is
beside the original, which ONNX Runtime optimizes too: interleaved, median, batch and sequence
enlarged, lengths from a fifth to all of the padded length (`make coverage SPEED=--speed`). These
models are tiny: the figure tells whether a rewrite pays, not what it brings at full size.

"""
_COLUMNS = (
    "family",
    "door",
    "captured",
    "attention",
    "padding removed",
    "verified",
    "times as fast",
    "remark",
)


def to_markdown(outcomes: Sequence[Outcome], versions: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        outcomes: in the order of the page.
        versions: of the packages that took part.
    """
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(_row(outcome) for outcome in outcomes)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{_HEAD}{_summary(outcomes)}\n\n{table}\n\nMade with {used}.{_timing(outcomes)}\n"


def _timing(outcomes: Sequence[Outcome]) -> str:
    """The states the machine was in while it was timed."""
    states = sorted({outcome.timed for outcome in outcomes if outcome.timed})
    ends = "; to ".join(dict.fromkeys((states[0], states[-1]))) if states else ""
    count = sum(bool(outcome.timed) for outcome in outcomes)
    return f" {count} rows were timed: {ends}." if states else " Not timed."


def _summary(outcomes: Sequence[Outcome]) -> str:
    total = len(outcomes)
    captured = sum(outcome.captured for outcome in outcomes)
    verified = sum(outcome.verified for outcome in outcomes)
    found = sum(min(outcome.attentions, outcome.expected) for outcome in outcomes)
    expected = sum(outcome.expected for outcome in outcomes)
    packed = sum(outcome.packed_nodes > 0 for outcome in outcomes)
    return (
        f"{captured} of {total} captured, {verified} verified; {found} of {expected} attentions "
        f"found; padding removed in {packed}."
    )


def _row(outcome: Outcome) -> tuple[str, ...]:
    packed = "no"
    if outcome.packed_nodes:
        packed = f"{outcome.packed_nodes} ops ({outcome.packed_attentions})"
    return (
        outcome.family,
        outcome.door,
        _yes(outcome.captured),
        f"{outcome.attentions} of {outcome.expected}",
        packed,
        _yes(outcome.verified),
        "" if outcome.speed is None else f"{outcome.speed:.2f}",
        outcome.reason.replace("|", "\\|"),
    )


def _yes(condition: bool) -> str:
    return "yes" if condition else "**no**"
