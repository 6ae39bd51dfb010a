from __future__ import annotations

import pytest

from dechaff.ir import UsageError
from dechaff.passes import parse_pass_list


def names(text: str) -> list[str]:
    return [step.name for step in parse_pass_list(text)]


def test_a_pass_before_what_it_needs_is_refused() -> None:
    with pytest.raises(UsageError, match="fold-constants must come after canonicalize"):
        parse_pass_list("fold-constants,canonicalize")


def test_passes_may_be_listed_again() -> None:
    *others, last = names("default")
    assert names("default,default") == [*others, *others, last, last]


def test_a_pass_is_left_out_by_its_name() -> None:
    assert names("default,-fuse-gelu") == [n for n in names("default") if n != "fuse-gelu"]
