"""Places of inputs, which need no GPU to be tested."""

from __future__ import annotations

import torch

from dechaff.backends.tvm.cuda_graphs import MOST_GRAPHS, InputPlaces


def test_inputs_are_copied_to_one_place_once_their_shapes_come_again() -> None:
    places = InputPlaces()
    inputs = [torch.tensor([[1, 2]]), torch.tensor([[True, False]])]
    first, in_place = places(inputs)
    assert not in_place
    assert all(a is b for a, b in zip(first, inputs, strict=True))
    second, in_place = places(inputs)
    assert in_place
    assert all(torch.equal(a, b) for a, b in zip(second, inputs, strict=True))
    third, in_place = places([inputs[0] + 5, ~inputs[1]])
    assert in_place
    assert third[0] is second[0]
    assert third[0].tolist() == [[6, 7]]
    assert third[1].tolist() == [[False, True]]
    assert inputs[0].tolist() == [[1, 2]]


def test_other_shapes_and_dtypes_have_places_of_their_own() -> None:
    places = InputPlaces()
    for tensor in (torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.int64)):
        assert not places([tensor])[1]
        assert places([tensor])[1]
    assert places([torch.ones(3)])[0][0].tolist() == [1, 1, 1]


def test_places_that_were_not_used_for_long_are_dropped() -> None:
    places = InputPlaces()
    for _ in range(2):
        for size in range(MOST_GRAPHS + 1):
            places([torch.zeros(size + 1)])
    assert len(places._places) == MOST_GRAPHS
    again, in_place = places([torch.ones(1)])
    assert in_place
    assert again[0].tolist() == [1]
