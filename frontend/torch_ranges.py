"""Ranges of named sizes that torch finds while it traces, taken up without tracing again.

torch compares the ranges of named sizes with what it found only when the trace is done. Where a
model has a longest sequence it then refuses, and says which range it wants: ``sequence =
Dim('sequence', max=512)``. Another export would trace the same graph, in a quarter of the time of
a capture.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch.utils._pytree as pytree
from torch.export import Dim, _trace
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError

_CHECK = "produce_guards_and_solve_constraints"
"""What ``torch.export`` calls when the trace is done; it has no public name."""
_VIOLATION = re.compile(r"^  - (.*)$", re.MULTILINE)
_RANGE_VIOLATED = re.compile(
    r"Not all values of (?P<name>\w+) = (?P<size>\S+) in the specified range\b.* satisfy the "
    r"generated guard (?:\d+ <= (?P=size)(?: and )?)?(?:(?P=size) <= \d+)?"
)
_SUGGESTED_RANGE = re.compile(
    r"(?P<name>\w+) = Dim\('(?P=name)'(?:, min=(?P<min>\d+))?(?:, max=(?P<max>\d+))?\)"
)


@contextlib.contextmanager
def ranges_as_found(dims: Collection[Dim]) -> Iterator[None]:
    """Let an export narrow these dims to the ranges that torch finds, where that is all it wants.

    Constants, multiples and sums that torch asks for are refused as before. Exports with other dims
    are not touched.
    """
    check = getattr(_trace, _CHECK)

    def check_and_narrow(*args: Any, dynamic_shapes: Any, **kwargs: Any) -> None:
        try:
            check(*args, dynamic_shapes=dynamic_shapes, **kwargs)
        except ConstraintViolationError as error:
            given = {id(dim) for dim in pytree.tree_leaves(dynamic_shapes)}
            own = {dim.__name__: dim for dim in dims if id(dim) in given}
            ranges = suggested_ranges(str(error))
            if not ranges or not ranges.keys() <= own.keys():
                raise
            for name, (lower, upper) in ranges.items():
                own[name].min = own[name].min if lower is None else lower
                own[name].max = own[name].max if upper is None else upper

    setattr(_trace, _CHECK, check_and_narrow)
    try:
        yield
    finally:
        setattr(_trace, _CHECK, check)


def suggested_ranges(message: str) -> Mapping[str, tuple[int | None, int | None]]:
    """Least and greatest value by name, as torch suggests them; empty if it wants anything else."""
    complaints, _, suggestions = message.partition("Suggested fixes:\n")
    violations = [_RANGE_VIOLATED.fullmatch(line) for line in _VIOLATION.findall(complaints)]
    lines = [line.strip() for line in suggestions.partition("\n\n")[0].splitlines()]
    found = [_SUGGESTED_RANGE.fullmatch(line) for line in lines if line]
    if None in violations or None in found:
        return {}
    violated = {match["name"] for match in violations if match}
    ranges = {item["name"]: (_bound(item["min"]), _bound(item["max"])) for item in found if item}
    return ranges if violated == ranges.keys() else {}


def _bound(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
