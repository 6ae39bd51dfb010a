"""What ``prune`` takes out, as text: ``attention.5+ffn.4.whole+ffn.1.features.0-63:70``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

_ITEM = re.compile(r"(attention|ffn)\.(\d+)(?:\.(whole|heads|features)(?:\.([0-9:-]+))?)?")
_PARTS = {"attention": "heads", "ffn": "features"}


@dataclasses.dataclass(frozen=True)
class Removal:
    """What to take out of the blocks of a model.

    Attributes:
        blocks: blocks to remove, by name; True: with the normalization behind it.
        parts: heads or inner features to remove, by the name of their block.
    """

    blocks: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, frozenset[int]] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Removal:
        """Read the text form.

        Raises:
            ValueError: the text is not of that form.
        """
        blocks: dict[str, bool] = {}
        parts: dict[str, frozenset[int]] = {}
        for item in filter(None, text.split("+")):
            match = _ITEM.fullmatch(item)
            kind, number, what, ranges = match.groups() if match else ("", "", None, None)
            block = f"{kind}.{number}"
            if match is None or (what in (None, "whole")) != (ranges is None):
                raise ValueError(_expected(item))
            if ranges is None:
                blocks[block] = what == "whole"
            elif what == _PARTS[kind]:
                parts[block] = parts.get(block, frozenset()) | _numbers(ranges, item)
            else:
                raise ValueError(_expected(item))
        return cls(blocks, parts)

    def __str__(self) -> str:
        whole = [f"{name}.whole" if whole else name for name, whole in self.blocks.items()]
        parts = [
            f"{name}.{_PARTS[name.partition('.')[0]]}.{_ranges(numbers)}"
            for name, numbers in self.parts.items()
            if name not in self.blocks
        ]
        return "+".join([*sorted(whole, key=_order), *sorted(parts, key=_order)])

    def with_block(self, name: str, *, whole: bool) -> Removal:
        """The removal with one more block."""
        return Removal({**self.blocks, name: whole}, self.parts)

    def with_parts(self, name: str, numbers: Iterable[int]) -> Removal:
        """The removal with more heads or features of a block."""
        known = self.parts.get(name, frozenset())
        return Removal(self.blocks, {**self.parts, name: known | frozenset(numbers)})


def _expected(item: str) -> str:
    return (
        f"remove: cannot read {item!r}; expected blocks as in 'attention.5', 'ffn.5.whole' (with "
        "its normalization), heads as in 'attention.3.heads.0:2' or inner features as in "
        "'ffn.1.features.0-63:70', joined by '+'"
    )


def _order(item: str) -> tuple[str, int, str]:
    kind, number, *rest = item.split(".")
    return kind, int(number), ".".join(rest)


def _numbers(ranges: str, item: str) -> frozenset[int]:
    found: set[int] = set()
    for piece in ranges.split(":"):
        ends = piece.split("-")
        if not all(ends) or len(ends) > 2 or int(ends[0]) > int(ends[-1]):
            raise ValueError(_expected(item))
        found.update(range(int(ends[0]), int(ends[-1]) + 1))
    return frozenset(found)


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ":".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
