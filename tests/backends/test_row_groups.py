"""Large batches go through in groups of rows, and give what they give as a whole."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dechaff
from dechaff.backends import RunningModel, Session, lower, row_groups, start_session
from dechaff.backends.row_groups import RowGroups
from dechaff.ir import Module
from dechaff.optimized_model import OptimizedModel
from tests.model_runner import Array
from tests.passes.test_remove_padding import MASKS, layer, random_states, remove_padding


@pytest.fixture(scope="module")
def lowered() -> Module:
    _, packed, _ = remove_padding(layer())
    return lower(packed)


class Counting:
    """A model that counts its runs."""

    def __init__(self, model: RunningModel) -> None:
        self._model, self.rows = model, list[int]()
        self.input_names, self.output_names = model.input_names, model.output_names

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        self.rows.append(len(inputs["x"]))
        return self._model.run(inputs, outputs)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_groups_give_what_the_whole_batch_gives(
    lowered: Module, mask: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = np.array(mask * 3, bool)
    inputs = {"x": random_states(keep), "mask": keep}
    whole = Session(lowered).run(inputs)
    monkeypatch.setattr(row_groups, "_POSITIONS_PER_THREAD", 4)
    counting = Counting(Session(lowered))
    found = RowGroups(counting, threads=1).run(inputs)
    assert sum(counting.rows) == len(keep)
    assert len(counting.rows) == max(1, min(len(keep), keep.size // 4))
    np.testing.assert_allclose(found["y"], whole["y"], rtol=1e-6, atol=1e-6)


def test_outputs_may_be_chosen(lowered: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "_POSITIONS_PER_THREAD", 1)
    keep = np.ones((4, 5), bool)
    inputs = {"x": random_states(keep), "mask": keep}
    assert list(RowGroups(Session(lowered), threads=1).run(inputs, ["y"])) == ["y"]


@given(rows=st.integers(0, 70), length=st.integers(0, 600), threads=st.integers(1, 64))
def test_groups_cover_all_rows_and_are_nearly_equal(rows: int, length: int, threads: int) -> None:
    batch = {"x": np.empty((rows, length, 2)), "mask": np.empty((rows, length))}
    groups = row_groups.row_groups(batch, threads)
    assert [i for rows_of in groups for i in range(rows)[rows_of]] == list(range(rows))
    sizes = [len(range(rows)[rows_of]) for rows_of in groups]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == 1 or min(sizes) > 0


@pytest.mark.parametrize(
    ("shapes", "groups"),
    [
        ([(16, 128), (16, 128)], 1),
        ([(32, 128), (32, 128)], 2),
        ([(1, 8192), (1, 8192)], 1),
        ([(64, 512), (1, 512)], 1),
        ([(64, 512), ()], 1),
    ],
)
def test_a_batch_that_fits_and_inputs_that_are_shared_stay_whole(
    shapes: list[tuple[int, ...]], groups: int
) -> None:
    batch = {str(index): np.empty(shape, bool) for index, shape in enumerate(shapes)}
    assert len(row_groups.row_groups(batch, threads=2)) == groups


def test_a_model_is_run_so_after_lowering_and_from_a_file(
    lowered: Module, tmp_path: pathlib.Path
) -> None:
    assert isinstance(start_session(lowered), RowGroups)
    OptimizedModel(lowered).save(tmp_path / "model.onnx")
    assert isinstance(start_session(dechaff.load(tmp_path / "model.onnx").module), RowGroups)


def test_a_model_whose_rows_meet_and_another_target_are_not() -> None:
    meeting = layer("p = Gather <axis = 1> (r, first) y = Softmax <axis = 0> (p)", "float[B,4] y")
    _, packed, _ = remove_padding(meeting)
    assert isinstance(start_session(lower(packed)), Session)
    _, packed, _ = remove_padding(layer())
    assert isinstance(start_session(lower(packed, "portable")), Session)
