"""Ranges that torch finds are taken up in one trace, and nothing but ranges is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from transformers import BertModel

from dechaff.frontend import from_torch, torch_capture
from dechaff.frontend.torch_ranges import ranges_as_found, suggested_ranges
from dechaff.ir import Module, SymbolRange, structural_diff
from tests.frontend.conftest import make_inputs

COMPLAINT = (
    "Constraints violated (sequence)! For more information, run with TORCH_LOGS.\n"
    "  - Not all values of sequence = L['ids'].size()[1] in the specified range satisfy the "
    "generated guard {guard}\nSuggested fixes:\n  {fix}\n\nThe error above occurred ..."
)
SIZE = "L['ids'].size()[1]"


class Positions(nn.Module):
    """At most 32 positions, as a slice of a table says."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(1, 32, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table[:, : x.shape[1]]


class Blocks(nn.Module):
    """Blocks of four positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1] // 4, 4, x.shape[2]).sum(2)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one for each trace of torch."""
    traces: list[object] = []
    export = torch_capture._export

    def counted(*given: Any) -> ExportedProgram:
        traces.append(given)
        return export(*given)

    monkeypatch.setattr(torch_capture, "_export", counted)
    return traces


def test_a_longest_sequence_takes_one_trace_and_gives_the_graph_of_two(
    bert: BertModel, captured_bert: Module, exports: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_one = from_torch(bert, make_inputs(2, 6))
    assert len(exports) == 1

    @contextlib.contextmanager
    def strict(_: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch_capture, "ranges_as_found", strict)
    in_two = from_torch(bert, make_inputs(2, 6))
    assert len(exports) == 3
    assert in_one.symbols == in_two.symbols
    assert in_one.symbols["sequence"] == SymbolRange(1, 32)
    assert structural_diff(in_one, in_two) == ""


def test_a_multiple_is_no_range() -> None:
    module = from_torch(Blocks(), (torch.rand(2, 8, 3),))
    (x,) = module.graph.inputs
    assert x.shape is not None
    assert str(x.shape[1]) != "sequence"


def test_dims_of_others_are_left_alone() -> None:
    sequence = Dim("sequence")
    with (
        ranges_as_found([Dim("sequence")]),
        pytest.raises(Exception, match="max=32"),
    ):
        torch.export.export(
            Positions(), (torch.rand(2, 5, 4),), dynamic_shapes=({1: sequence},), strict=False
        )
    with ranges_as_found([sequence]):
        torch.export.export(
            Positions(), (torch.rand(2, 5, 4),), dynamic_shapes=({1: sequence},), strict=False
        )
    assert sequence.max == 32


@pytest.mark.parametrize(
    ("guard", "fix", "ranges"),
    [
        (f"2 <= {SIZE} and {SIZE} <= 9", "sequence = Dim('sequence', max=9)", (None, 9)),
        (f"4 <= {SIZE}", "sequence = Dim('sequence', min=4)", (4, None)),
        (f"4 <= {SIZE} and {SIZE} <= 9", "sequence = Dim('sequence', min=4, max=9)", (4, 9)),
        (f"2 <= {SIZE} and {SIZE} <= 9", "sequence = 8", None),
        (f"2 <= {SIZE} and {SIZE} <= 9", "sequence = 4*_sequence", None),
        (f"2 <= {SIZE} and {SIZE} <= 9", "batch = Dim('batch', max=9)", None),
        (f"(({SIZE} % 4)) == 0.", "sequence = Dim('sequence', max=9)", None),
        (f"2 <= {SIZE} and {SIZE} <= 9", "", None),
    ],
)
def test_only_a_range_of_what_is_violated_is_read_from_a_message(
    guard: str, fix: str, ranges: tuple[int | None, int | None] | None
) -> None:
    found = suggested_ranges(COMPLAINT.format(guard=guard, fix=fix))
    assert found == ({} if ranges is None else {"sequence": ranges})
